"""Recovery's decisions, made from values alone: no clock, no database, no network."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from courant.contracts import Decided, Persisted, UntaggedReceipt
from courant.lifecycle import GIVEN_UP, Move
from courant.records import Dead, Outgoing, Record
from courant.topics import (
    CHUNKS,
    DELIVERY,
    INBOX,
    JOBS,
    PERSISTED,
    RECEIPTS,
    Channel,
    Lane,
    Partition,
    group,
)
from recovery.rows import OverdueRow, WaitingReceipt, WaitLimit

FOLDED = (*INBOX.names(), DELIVERY.name, RECEIPTS.name)
"""The topics that the saver reads. Its positions in them are rows of Postgres."""
ORDERS = {
    PERSISTED.topic(channel, lane): group("deliverer", PERSISTED, channel, lane)
    for channel in Channel
    for lane in Lane
}
"""The topics of orders, each with the group that reads it. Its positions are its commits."""
GROUPS = {**ORDERS, CHUNKS.name: group("job-runner", CHUNKS)}
"""The same, and the topic of the orders to turn chunks into notifications."""
MARKED = (*FOLDED, JOBS.name, *GROUPS)
"""The topics that marks are taken of."""

JOB_KEPT = timedelta(days=13)
"""How old a job may get before it is cancelled: two days less than a row's id may be old."""
GAP = timedelta(seconds=15)
"""A silence this long in `receipts`, which has heartbeats too, means that no receipt could come."""


def order(row: OverdueRow) -> Outgoing:
    """Return the order to send a row.

    A second order is harmless, because a claim takes only rows that wait.
    """
    topic = PERSISTED.topic(row.channel, row.lane)
    return Outgoing(topic, row.id.bytes, Persisted(id=row.id).encode())


def decide(row: OverdueRow, move: Move, reason: str) -> Outgoing:
    """Return the decision of a row's move.

    The saver makes the move if the row still has this state and attempt.
    """
    decided = Decided(id=row.id, attempt=row.attempt, move=move, reason=reason)
    return Outgoing(DELIVERY.name, row.id.bytes, decided.encode())


def resolve(row: OverdueRow, resends: bool) -> Outgoing:
    """Return the decision to send a row of unknown outcome again, or to give it up."""
    if resends:
        return decide(row, Move.RESENT, "its call's outcome is unknown, and no receipt came")
    return decide(row, Move.ABANDONED, "its call's outcome is unknown; its template is not resent")


def matched(waiting: WaitingReceipt, id: UUID, attempt: int) -> Outgoing:
    """Return a receipt that waited as the receipt of the row with its message id."""
    receipt = UntaggedReceipt.decode(waiting.value).of(id, attempt)
    return Outgoing(RECEIPTS.name, id.bytes, receipt.encode())


def given_up(waiting: WaitingReceipt) -> Outgoing:
    """Return the dead letter of a receipt that no row ever matched."""
    place = Partition(RECEIPTS.name, UUID(int=0), waiting.partition)
    key = waiting.message_id.encode()
    record = Record(place, waiting.offset, key, waiting.value, (), waiting.at)
    return Dead(record, "message_id: no notification has had it").letter()


def shorter_limits(limits: Iterable[WaitLimit]) -> list[WaitLimit]:
    """Return the limits that are shorter than the usual one."""
    return [limit for limit in limits if timedelta(hours=limit.hours) < GIVEN_UP]


def reachable_since(growth: Iterable[tuple[datetime, int]]) -> datetime | None:
    """Return since when receipts could come without a gap; None if none can come, or none is known.

    `growth` has rising times, each with the number of records that `receipts` had by then. Nothing
    is known of the time before the first, or between two that are far apart: both count as gaps.
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
    """Return the time before which a lease must have ended for its call to have had its grace.

    Everything that was written to `receipts` before the time `receipts` is folded. `since` is when
    receipts began to come without a gap. Returns None if no call has had its grace yet.
    """
    return receipts - grace if since and since + grace < receipts else None


def spacing(
    bands: Sequence[tuple[timedelta, timedelta]],
) -> list[tuple[timedelta, timedelta, timedelta]]:
    """Return the youngest age of each band, its oldest, and the time in which it keeps one mark."""
    oldest = [age for age, _ in bands[1:]] + [MARKS_KEPT]
    return [(age, until, space) for (age, space), until in zip(bands, oldest, strict=True)]


MARKS_KEPT = timedelta(days=15)
"""A day longer than the retention of the topics that Postgres is rebuilt from."""

# Each pair: from this age on, one mark is kept in this time.
THINNED = spacing(
    [
        (timedelta(minutes=2), timedelta(seconds=10)),
        (timedelta(hours=1), timedelta(minutes=1)),
        (timedelta(days=1), timedelta(minutes=15)),
    ]
)
# Marks of `receipts` must show a gap of fifteen seconds for as long as a backlog may be old.
THINNED_RECEIPTS = spacing(
    [
        (timedelta(minutes=2), timedelta(seconds=5)),
        (timedelta(days=1), timedelta(minutes=15)),
    ]
)
