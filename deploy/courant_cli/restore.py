"""`courant restore --since`: has the services fold the log again, after damage inside Postgres."""

import getpass
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from confluent_kafka import Consumer
from rich.console import Console

from courant import clock, topics
from courant.kafka import offsets
from courant.kafka.clients import common, raises_unavailable
from courant.postgres import refolds
from courant.postgres.database import classified_errors
from courant.postgres.folding import OWN_POSITIONS
from courant.topics import DELIVERY, INBOX, JOBS, RECEIPTS, Partition, Positions
from courant_cli.installation import NAME, Installation
from courant_local.plan import CommandError

FOLDED = (*INBOX.names(), DELIVERY.name, RECEIPTS.name, JOBS.name)
"""The topics that Postgres is a fold of."""
CLOCKS = timedelta(minutes=1)
"""Read from so much earlier, because the brokers' clocks differ: a call's record must not be
skipped because its broker is behind that of its notification's record."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

console = Console(highlight=False)


def restore(
    since: Annotated[
        str,
        typer.Option(
            help="A time such as 2026-03-14T09:30:00Z, before the first missing notification was "
            "accepted; or how long ago: 90s, 30m, 2h, 1d."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Bring back rows that were deleted in Postgres, from the log. Sends nothing twice."""
    at = time_of(since, clock.now())
    installation = Installation()
    starts = starts_at(installation, at - CLOCKS)
    console.print(
        f"Since {at:%Y-%m-%d %H:%M:%S} UTC: {counted(folded_since(installation, starts))}."
    )
    console.print(
        "Sending stops until they are folded, and about a minute longer. Accepting goes on.\n"
        "Rows that are missing come back and make their moves again. All other rows stay as they "
        "are.\nNothing is sent twice, if this time is before the first missing notification was "
        "accepted.",
        soft_wrap=True,
    )
    if not yes:
        typer.confirm("Go on?", abort=True)
    reason = f"restore since {at:%Y-%m-%dT%H:%M:%SZ} by {getpass.getuser()}"
    with classified_errors(), installation.engine.begin() as connection:
        again = refolds.set_back(connection, starts, reason)
    console.print(
        f"Started: {counted(again)}. The holds `rebuild` and `jobs` lift by themselves.",
        soft_wrap=True,
    )


def time_of(text: str, now: datetime) -> datetime:
    """Return the time that a text names, in UTC; raises CommandError."""
    try:
        if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
            at = now - timedelta(**{UNITS[match[2]]: int(match[1])})
        else:
            at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{text}: neither a time like 2026-03-14T09:30:00Z nor one ago like 2h"
        ) from None
    at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    if at > now:
        raise CommandError(f"{text} is in the future")
    # A topic may hold older records than another. A notification whose own calls have left the
    # log would come back as if it had never been sent.
    if at < now - INBOX.retention:
        raise CommandError(f"{text} is older than the log, which keeps {INBOX.retention.days} days")
    return at


def starts_at(installation: Installation, at: datetime) -> Positions:
    """Return each partition's first offset since a time, where there is one; raises Unavailable."""
    with installation.admin() as admin:
        partitions = offsets.partitions(admin, FOLDED)
    options = {**common(installation.cluster, NAME), "group.id": installation.cluster.group(NAME)}
    with raises_unavailable(), closing(Consumer(options)) as consumer:
        return offsets.since(consumer, installation.cluster, partitions, at)


def folded_since(installation: Installation, starts: Positions) -> dict[Partition, int]:
    """Return how many records of each partition Postgres has folded since these offsets."""
    ids = list({partition.topic_id for partition in starts})
    with classified_errors(), installation.engine.connect() as connection:
        rows = connection.exec_driver_sql(OWN_POSITIONS, (ids,)).all()
    stand = {(topic_id, number): position for topic_id, number, position in rows}
    return {
        each: max(0, stand.get((each.topic_id, each.number), 0) - start)
        for each, start in starts.items()
    }


def counted(records: dict[Partition, int]) -> str:
    """Return the numbers of records as a sentence."""
    by_family = Counter[str]()
    for partition, number in records.items():
        by_family[topics.family(partition.topic)] += number
    parts = [f"{by_family[name]} of {name}" for name in families()]
    return f"records to fold again: {', '.join(parts)}"


def families() -> Iterable[str]:
    return [family.name for family in (INBOX, DELIVERY, RECEIPTS, JOBS)]
