"""Provides the fixture `stack`, which runs the whole product."""

from support.stack import stack

__all__ = ["stack"]
