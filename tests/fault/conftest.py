"""A stack of its own for the faults, and how to strike it."""

from collections.abc import Iterator

import pytest

from fault_site import Site
from stack import running


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as stack:
        yield Site(stack)
