"""`courant trace ID`: shows the timeline of one notification, from Postgres and from the topics."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from courant import ids
from courant.kafka import offsets
from courant.kafka.reader import TopicReader, read_to_end
from courant.topics import DELIVERY, INBOX, PERSISTED, RECEIPTS, dead
from courant_cli.installation import NAME, Installation
from courant_local.plan import CommandError

ROW = text("SELECT state, attempt, tries, channel, lane, key_type, issued_at, lease_until, reason "
           "FROM notifications WHERE id = :id")  # fmt: skip
EVENTS = text("SELECT at, move, attempt, made, reason FROM events WHERE id = :id ORDER BY number")
ALIAS = text("SELECT winner FROM aliases WHERE id = :id")
LOOKED_FOR = (*INBOX.names(), *PERSISTED.names(), DELIVERY.name, RECEIPTS.name)

console = Console(highlight=False)


def trace(id: UUID, topics: bool = True) -> None:
    """Show one notification's row, its events and its records."""
    installation = Installation()
    with installation.engine.begin() as connection:
        row = connection.execute(ROW, {"id": id}).mappings().one_or_none()
        winner = connection.execute(ALIAS, {"id": id}).scalar_one_or_none()
    if winner:
        console.print(f"An alias: the same Idempotency-Key came first with {winner}")
    if row:
        console.print("  ".join(f"{name}={value}" for name, value in row.items() if value))
        console.print(timeline(installation, str(id)))
    else:
        console.print("Postgres has no row with this id.")
    if topics:
        console.print(records(installation, id))
    if not row and not winner:
        raise typer.Exit(1)


def timeline(installation: Installation, id: str) -> Table:
    """Return the table of a notification's events."""
    drawn = Table("at", "move", "attempt", "", box=None)
    with installation.engine.begin() as connection:
        for at, move, attempt, made, reason in connection.execute(EVENTS, {"id": UUID(id)}):
            late = "" if made else "came too late, changed nothing  "
            when = at.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]
            drawn.add_row(when, move, str(attempt), f"{late}{reason or ''}")
    return drawn


def records(installation: Installation, id: UUID) -> Table:
    """Return the table of records that name a notification, by key or inside a call's record."""
    drawn = Table("written", "topic", "offset", "bytes", box=None)
    since = ids.time_of(id)
    if since is None:
        raise CommandError("a UUIDv4 is a simulated recipient's id: nothing is stored")
    families = {topic.partition(".")[0] for topic in LOOKED_FOR} - {"persisted"}
    for written, topic, offset, size in sorted(
        search(installation, id, since, (*LOOKED_FOR, *map(dead, families), dead("persisted")))
    ):
        drawn.add_row(written.strftime("%H:%M:%S.%f")[:-3], topic, offset, str(size))
    return drawn


def search(
    installation: Installation, id: UUID, since: datetime, topics: tuple[str, ...]
) -> Iterator[tuple[datetime, str, str, int]]:
    """Read the topics from the id's time on; yield the records that name the notification."""
    with installation.admin() as client:
        partitions = offsets.partitions(client, topics)
    # One second earlier: the id has its maker's clock, but the records have the broker's.
    since -= timedelta(seconds=1)
    cluster = installation.cluster
    reader = TopicReader(cluster, NAME, [(each.topic, each.number) for each in partitions], since)
    try:
        for message in read_to_end(reader):
            value = message.value() or b""
            if message.key() == id.bytes or str(id).encode() in value:
                at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
                position = f"{message.partition()}/{message.offset()}"
                yield at, cluster.name_of(str(message.topic())), position, len(value)
    finally:
        reader.close()
