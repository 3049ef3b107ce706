"""The whole product, for those integration tests that ask for it."""

from support.stack import stack

__all__ = ["stack"]
