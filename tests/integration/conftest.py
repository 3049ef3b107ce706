"""The whole product, for those integration tests that ask for it."""

from stack import stack

__all__ = ["stack"]
