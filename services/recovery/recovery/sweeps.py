"""The sweeps: every row that stood still, found by what proves it, is given its next step.

One table. A row that waits its turn in a backlog is never touched: a time by Postgres's clock is
compared with the time before which all that was written is known to be handled (`marks`). Each
step may be done twice: orders and decisions are fenced by the row's state and attempt.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from courant import bulk, clock, metrics
from courant.bulk import ChunkRef
from courant.consume import Producer
from courant.contracts import Command
from courant.directory.entries import Directory
from courant.lifecycle import Move
from courant.records import Outgoing
from courant.topics import CHUNKS, DELIVERY, INBOX, PERSISTED, RECEIPTS, Channel, Lane, Positions
from recovery import rules
from recovery.rows import OverdueGroup, OverdueRow

T = TypeVar("T")
log = logging.getLogger(__name__)

BITES_MAX = 20
"""So often a sweep that finds its limit runs on before the others have their turn."""
ORDER_WAIT = timedelta(seconds=60)
"""A saver that dies between row and order gives the order well within this."""


class Rows(Protocol):
    """One transaction under no hold. It gives rows that nobody else is at work on, and keeps them.

    Every method that gives rows gives the longest overdue first, and at most `limit`.
    """

    def passed(
        self, topics: Sequence[str], places: Positions | None = None
    ) -> Mapping[str, datetime]:
        """Tell before what time all that was written to each topic is handled, where it is known.

        By the places given, or else Postgres's own.
        """

    def growth(self, since: datetime) -> Sequence[tuple[datetime, int]]:
        """Give the times of the marks from there on, and how far `receipts` had grown by each."""

    def due(self, limit: int) -> list[OverdueRow]:
        """Give what waits, whose time has come since its last order."""

    def unclaimed(
        self, channel: Channel, lane: Lane, before: datetime, limit: int
    ) -> list[OverdueRow]:
        """Give what waits for no time, of one lane, whose last order is older than `before`."""

    def unstarted(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Give what is claimed by a lease that ended before, and is in no open call."""

    def unresolved(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Give what is claimed by a lease that ended before `before`, and is in an open call."""

    def unanswered(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Give what was taken by its provider before, and had no receipt."""

    def expired(
        self, usual: timedelta, shelves: Sequence[OverdueGroup], delivery: datetime, limit: int
    ) -> list[OverdueRow]:
        """Give what waits for longer than usual, or than its template lets it."""

    def cancelled(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Give what waits for its turn, and whose job was cancelled."""

    def issued(self, rows: Sequence[OverdueRow]) -> None:
        """Note that these rows have their next step now."""

    def incomplete(self, before: datetime, limit: int) -> list[ChunkRef]:
        """Give chunks of jobs whose last order is older than `before`, and of which rows lack.

        Looks at `limit` chunks, and notes of which nothing lacks: they are not looked at again.
        """

    def ordered(self, chunks: Sequence[ChunkRef]) -> None:
        """Note that these chunks have their order now."""

    def outlived(self, age: timedelta, limit: int) -> list[UUID]:
        """Give jobs that are older than this, and neither over nor cancelled."""


class Store(Protocol):
    """What the sweeps need of a database."""

    def sweeping(self) -> AbstractContextManager[Rows]:
        """Begin a transaction; raises Unavailable under a hold."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a sweep works with besides the store."""

    producer: Producer
    directory: Directory
    places: Positions  # the deliverers' in the topics of orders
    grace: timedelta


def issued(rows: Rows, found: Sequence[OverdueRow]) -> None:
    rows.issued(found)


@dataclass(frozen=True, slots=True)
class Sweep(Generic[T]):
    """What is overdue, by which proof, what is written for it, and how that is noted."""

    name: str
    every: timedelta
    limit: int  # rows a run
    overdue: Callable[[Rows, Tools, int], list[T]]
    write: Callable[[T, Directory], Outgoing]
    note: Callable[[Rows, Sequence[Any]], None] = issued


def due(rows: Rows, _: Tools, limit: int) -> list[OverdueRow]:
    """Deferred, freed, resent, scheduled. No proof is needed: their last order was used."""
    return rows.due(limit)


def lost_orders(rows: Rows, tools: Tools, limit: int) -> list[OverdueRow]:
    """The deliverer has passed all that was written a minute after the last order."""
    passed = rows.passed(tuple(rules.ORDERS), tools.places)
    found: list[OverdueRow] = []
    for channel, lane in product(Channel, Lane):
        until = passed.get(PERSISTED.topic(channel, lane))
        if until and len(found) < limit:
            found += rows.unclaimed(channel, lane, until - ORDER_WAIT, limit - len(found))
    return found


def never_started(rows: Rows, _: Tools, limit: int) -> list[OverdueRow]:
    """The saver has passed the lease's end in `delivery`: a `started` would be known."""
    delivery, _receipts = folded(rows)
    return rows.unstarted(delivery, limit) if delivery else []


def unknown(rows: Rows, tools: Tools, limit: int) -> list[OverdueRow]:
    """The saver has passed the lease's end, and a grace without a gap in which receipts came."""
    delivery, receipts = folded(rows)
    # A template that is only not read yet must not look as if it had no policy.
    if not delivery or not receipts or not tools.directory.is_read:
        return []
    since = rules.reachable_since(rows.growth(receipts - tools.grace - rules.GAP))
    silent = rules.silent_before(receipts, tools.grace, since)
    return rows.unresolved(min(delivery, silent), delivery, limit) if silent else []


def unanswered(rows: Rows, _: Tools, limit: int) -> list[OverdueRow]:
    """For three days, all of whose receipts are folded."""
    delivery, receipts = folded(rows)
    if not delivery or not receipts:
        return []
    return rows.unanswered(receipts - rules.GIVEN_UP, delivery, limit)


def expired(rows: Rows, tools: Tools, limit: int) -> list[OverdueRow]:
    """For three days, or as many hours as its template says."""
    delivery, _ = folded(rows)
    versions = (
        each for found in list(tools.directory.templates.values()) for each in found.values()
    )
    shelves = rules.shelves(
        OverdueGroup(each.id, each.version, each.valid_for_hours) for each in versions
    )
    return rows.expired(rules.GIVEN_UP, shelves, delivery, limit) if delivery else []


def cancelled(rows: Rows, _: Tools, limit: int) -> list[OverdueRow]:
    """Of jobs that were cancelled. No claim takes them meanwhile."""
    delivery, _receipts = folded(rows)
    return rows.cancelled(delivery, limit) if delivery else []


def incomplete(rows: Rows, tools: Tools, limit: int) -> list[ChunkRef]:
    """Job-runner and saver have passed all that was written a minute after the chunk's order."""
    inbox = rows.passed(INBOX.topics(Lane.BULK))
    passed = [*inbox.values(), *rows.passed((CHUNKS.name,), tools.places).values()]
    if len(passed) < len(Channel) + 1:  # of some topic it is not known
        return []
    return rows.incomplete(min(passed) - ORDER_WAIT, limit)


def outlived(rows: Rows, _: Tools, limit: int) -> list[UUID]:
    """Paused, held or without their chunks for so long that the saver would refuse their rows."""
    return rows.outlived(rules.JOB_KEPT, limit)


def folded(rows: Rows) -> tuple[datetime | None, datetime | None]:
    """Tell before what time all is folded that was written to `delivery` and to `receipts`."""
    passed = rows.passed((DELIVERY.name, RECEIPTS.name))
    return passed.get(DELIVERY.name), passed.get(RECEIPTS.name)


def order(row: OverdueRow, _: Directory) -> Outgoing:
    return rules.order(row)


def spread(chunk: ChunkRef, _: Directory) -> Outgoing:
    return bulk.chunk_order(chunk.job_id, chunk.number)


def cancel(job_id: UUID, _: Directory) -> Outgoing:
    return bulk.job_command(job_id, Command.CANCELLED, clock.now())


def resolve(row: OverdueRow, directory: Directory) -> Outgoing:
    template = directory.template(row.template_id, row.template_version)
    # Templates are kept for good: of one that is not there nobody said not to send again.
    return rules.resolve(row, resends=template is None or template.resend_unknown)


def decide(move: Move, reason: str) -> Callable[[OverdueRow, Directory], Outgoing]:
    """Make what decides one move for every row of a sweep."""
    return lambda row, _: rules.decide(row, move, reason)


def unnoted(_: Rows, __: Sequence[UUID]) -> None:
    """Note nothing: the same is written again until job-runner has read it."""


def ordered(rows: Rows, found: Sequence[ChunkRef]) -> None:
    rows.ordered(found)


SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
NEVER, SILENT, LATE = "its lease ended, no call began", "no receipt came", "not sent in time"
GONE = "its job was cancelled"
# fmt: off
SWEEPS: tuple[Sweep[Any], ...] = (
    Sweep("due",            SECOND,     1000, due,           order),
    Sweep("replay-created", 5 * SECOND, 1000, lost_orders,   order),
    Sweep("never-started",  SECOND,     1000, never_started, decide(Move.FREED, NEVER)),
    Sweep("unknown",        5 * SECOND, 200,  unknown,       resolve),
    Sweep("unanswered",     MINUTE,     1000, unanswered,    decide(Move.UNANSWERED, SILENT)),
    Sweep("expired",        MINUTE,     1000, expired,       decide(Move.EXPIRED, LATE)),
    Sweep("cancelled",      SECOND,     1000, cancelled,     decide(Move.CANCELLED, GONE)),
    Sweep("outlived",       MINUTE,     100,  outlived,      cancel, unnoted),
    Sweep("incomplete",     5 * SECOND, 100,  incomplete,    spread, ordered),
)
# fmt: on


def sweep(each: Sweep[Any], store: Store, tools: Tools) -> int:
    """Give what is overdue its next step, bite by bite; tell for how many rows."""
    total = 0
    for _ in range(BITES_MAX):
        done = bite(each, store, tools)
        total += done
        if done < each.limit:
            break
    if total:
        log.info("rows given their next step", extra={"sweep": each.name, "rows": total})
    return total


def bite(each: Sweep[Any], store: Store, tools: Tools) -> int:
    """Run once; raises Unavailable, and then the same is found again.

    The records come first: a row that was noted, and whose record then died, would wait for it.
    """
    with store.sweeping() as rows:
        found = each.overdue(rows, tools, each.limit)
        for row in found:
            tools.producer.produce(each.write(row, tools.directory))
        if found:
            tools.producer.flush()
            # After the flush: who has passed this time in the topic has passed the record.
            each.note(rows, found)
    metrics.SWEPT.labels(each.name).inc(len(found))
    return len(found)
