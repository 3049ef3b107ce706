"""What recovery decides, given values alone. No clock, no database, no network."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from courant.contracts import Decided, Persisted
from courant.lifecycle import Move
from courant.records import Outgoing
from courant.topics import (
    CHUNKS,
    DELIVERY,
    INBOX,
    JOBS,
    PERSISTED,
    RECEIPTS,
    Channel,
    Lane,
    group,
)
from recovery.rows import OverdueGroup, OverdueRow

FOLDED = (*INBOX.names(), DELIVERY.name, RECEIPTS.name)
"""The topics that the saver reads: its place in them is Postgres's own."""
ORDERS = {
    PERSISTED.topic(channel, lane): group("deliverer", PERSISTED, channel, lane)
    for channel in Channel
    for lane in Lane
}
"""The topics of orders, each with the group that reads it: its place is what it committed."""
GROUPS = {**ORDERS, CHUNKS.name: group("job-runner", CHUNKS)}
"""The same, and the orders to turn chunks into notifications."""
MARKED = (*FOLDED, JOBS.name, *GROUPS)

GIVEN_UP = timedelta(hours=72)
"""How long a notification may wait to be sent, and for its receipt."""
JOB_KEPT = timedelta(days=13)
"""How old a job may be before it ends: two days less than the days that rows' ids may be of."""
GAP = timedelta(seconds=15)
"""Of so long a silence in `receipts`, heartbeats included, it is said that none could come."""


def order(row: OverdueRow) -> Outgoing:
    """Order a row to be sent. A second order is harmless: a claim takes only what waits."""
    topic = PERSISTED.topic(row.channel, row.lane)
    return Outgoing(topic, row.id.bytes, Persisted(id=row.id).encode())


def decide(row: OverdueRow, move: Move, reason: str) -> Outgoing:
    """Decide a row's move; the saver makes it, if the row is still as it was seen."""
    decided = Decided(id=row.id, attempt=row.attempt, move=move, reason=reason)
    return Outgoing(DELIVERY.name, row.id.bytes, decided.encode())


def resolve(row: OverdueRow, resends: bool) -> Outgoing:
    """Send again what may or may not have been sent, or give it up, as its template has it."""
    if resends:
        return decide(row, Move.RESENT, "its call's outcome is unknown, and no receipt came")
    return decide(row, Move.ABANDONED, "its call's outcome is unknown; its template is not resent")


def shelves(found: Iterable[OverdueGroup]) -> list[OverdueGroup]:
    """Give those that may wait for less than is usual."""
    return [each for each in found if timedelta(hours=each.hours) < GIVEN_UP]


def reachable_since(growth: Iterable[tuple[datetime, int]]) -> datetime | None:
    """Tell since when receipts could come without a gap; None while none can, or none is known.

    `growth` holds times, rising, and how many records `receipts` had been given by then. What was
    before the first time is not known, nor what was between two that are far apart: both are gaps.
    """
    since = grew_at = now = None
    last = 0
    for now, count in growth:
        if since is None or grew_at is None:
            since = grew_at = now
        elif count != last:
            since = now if now - grew_at > GAP else since
            grew_at = now
        last = count
    return None if now is None or grew_at is None or now - grew_at > GAP else since


def silent_before(receipts: datetime, grace: timedelta, since: datetime | None) -> datetime | None:
    """Tell before what time a lease must have ended for its call to have had its grace.

    All that was written to `receipts` before the time of that name is folded; `since` is when they
    began to come without a gap. None: no call has had it yet.
    """
    return receipts - grace if since and since + grace < receipts else None


def spacing(
    bands: Sequence[tuple[timedelta, timedelta]],
) -> list[tuple[timedelta, timedelta, timedelta]]:
    """Give for each band of ages its youngest, its oldest, and the one mark in so long it keeps."""
    oldest = [age for age, _ in bands[1:]] + [MARKS_KEPT]
    return [(age, until, space) for (age, space), until in zip(bands, oldest, strict=True)]


MARKS_KEPT = timedelta(days=15)
"""A day longer than anything stays in the topics that Postgres is made whole from."""

# From which age on, one mark in how long a time.
THINNED = spacing(
    [
        (timedelta(minutes=2), timedelta(seconds=10)),
        (timedelta(hours=1), timedelta(minutes=1)),
        (timedelta(days=1), timedelta(minutes=15)),
    ]
)
# A gap of fifteen seconds must still be seen in those of `receipts`, as old as a backlog may be.
THINNED_RECEIPTS = spacing(
    [
        (timedelta(minutes=2), timedelta(seconds=5)),
        (timedelta(days=1), timedelta(minutes=15)),
    ]
)
