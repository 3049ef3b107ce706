"""A stack of its own for the faults, how to strike it, and the table of what was seen."""

from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fault.site import REPORTS, Site
from support.stack import running

COLUMNS = (
    "accepted",
    "statuses",
    "p99_ms",
    "explained duplicates",
    "inside calls",
    "quiet after s",
)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give a stack of one instance each; a parameter is what else `courant up` is told."""
    with running(*getattr(request, "param", ())) as stack:
        yield Site(stack, request.node.name)


def pytest_terminal_summary() -> None:
    """Print what was asked of PostgreSQL and the ledger after each fault, and answered."""
    if not REPORTS:
        return
    drawn = Table("fault", "wrong", *COLUMNS, box=None)
    for fault, told in REPORTS.items():
        words = escape(fault.removeprefix("test_").replace("_", " "))  # [one] is no markup
        drawn.add_row(words, str(told["wrong"] or 0), *(str(told[each]) for each in COLUMNS))
    Console(width=180).print(drawn)
