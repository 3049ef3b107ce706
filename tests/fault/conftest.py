"""Each fault test gets its own stack; a table at the end of the run shows their figures."""

from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fault.harness import REPORTS, Harness
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
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Start a stack with one instance of each service.

    A test's indirect parameter holds further arguments for `courant up`.
    """
    with running(*getattr(request, "param", ())) as stack:
        yield Harness(stack, request.node.name)


def pytest_terminal_summary() -> None:
    """Print what PostgreSQL and the provider's ledger showed after each fault."""
    if not REPORTS:
        return
    table = Table("fault", "wrong", *COLUMNS, box=None)
    for fault, report in REPORTS.items():
        # Rich would read a parameter's id such as "[one]" as markup.
        words = escape(fault.removeprefix("test_").replace("_", " "))
        figures = (str(report[column]) for column in COLUMNS)
        table.add_row(words, str(report["wrong"] or 0), *figures)
    Console(width=180).print(table)
