"""`courant failed list|redrive`: what failed through a fault of ours, and sending it again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from sqlalchemy import text

from courant import ids
from courant.lifecycle import FAILED
from courant.postgres.tables import WITH_CONTENT
from courant_cli.dead import REDRIVABLE, console, redrive_order
from courant_cli.installation import Installation
from courant_local.plan import CommandError

app = typer.Typer(
    help="List notifications that failed and were not sent; send them again.", no_args_is_help=True
)
PAGE = 500
OLDER = timedelta(days=5)
"""How much older a notification may be than its failure: it may wait four days for its time."""


CHOSEN = f"""
    FROM notifications n
    WHERE n.id >= :oldest AND n.state_at >= :since AND {REDRIVABLE}
        AND (CAST(:state AS text) IS NULL OR n.state = :state)
        AND (CAST(:reason AS text) IS NULL OR strpos(n.reason, :reason) > 0)
        AND (CAST(:service AS uuid) IS NULL OR n.service_id = :service)"""
WITHOUT = f"count(*) FILTER (WHERE NOT (n.{WITH_CONTENT}))"
COUNT = text(
    f"SELECT n.state, n.reason, count(*), {WITHOUT} {CHOSEN} GROUP BY 1, 2 ORDER BY 3 DESC"
)
EMPTIED = text(f"SELECT {WITHOUT} {CHOSEN}")
SELECT = text(f"""
    SELECT n.id, n.attempt {CHOSEN} AND n.{WITH_CONTENT} AND n.id > :after
    ORDER BY n.id LIMIT {PAGE}""")

Since = Annotated[datetime, typer.Option(help="Failed since this time, in UTC.")]
ByState = Annotated[str | None, typer.Option("--state", help="Only those in this state.")]
ByReason = Annotated[str | None, typer.Option("--reason", help="Only if the reason contains this.")]
ByService = Annotated[UUID | None, typer.Option("--service", help="Only those of this service.")]


@app.command("list")
def list_failed(
    since: Since, state: ByState = None, reason: ByReason = None, service: ByService = None
) -> None:
    """Count the notifications that failed and were not sent, by state and reason."""
    drawn = Table("state", "reason", "notifications", "of them emptied", box=None)
    with Installation().engine.connect() as connection:
        for row in connection.execute(COUNT, chosen(since, state, reason, service)):
            drawn.add_row(*map(str, row))
    console.print(drawn)


@app.command()
def redrive(
    since: Since, state: ByState = None, reason: ByReason = None, service: ByService = None
) -> None:
    """Send those notifications again, once the cause is repaired.

    Those whose retention is over are left out: nothing is left to send.
    """
    installation = Installation()
    values = chosen(since, state, reason, service)
    with installation.engine.connect() as connection:
        emptied = connection.execute(EMPTIED, values).scalar_one()
    count = 0
    for page in pages(installation, values):
        for id, attempt in page:
            installation.producer.produce(redrive_order(id, attempt))
        installation.producer.flush()
        count += len(page)
    console.print(f"{count} notifications are ordered again")
    if emptied:
        console.print(f"{emptied} are left out: their retention is over and their content emptied")


def chosen(
    since: datetime, state: str | None, reason: str | None, service: UUID | None
) -> dict[str, Any]:
    """Return the values of the statements; raises CommandError for a state that is no failure."""
    if state not in {None, *FAILED.split()}:
        raise CommandError(f"{state} is not one of: {FAILED}")
    since = since.replace(tzinfo=UTC)
    oldest = ids.first_of(ids.day_at(since - OLDER))
    return {
        "since": since, "oldest": oldest, "state": state, "reason": reason, "service": service,
    }  # fmt: skip


def pages(installation: Installation, values: dict[str, Any]) -> Iterator[list[tuple[UUID, int]]]:
    """Yield the chosen notifications, each with its attempt, in pages."""
    after = UUID(int=0)
    while True:
        with installation.engine.connect() as connection:
            rows = connection.execute(SELECT, {**values, "after": after})
            page = [(id, attempt) for id, attempt in rows]
        if not page:
            return
        yield page
        after = page[-1][0]
