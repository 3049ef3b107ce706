"""The sweeps: each finds one kind of overdue notification and orders or decides its next step.

A row that waits its turn in a backlog is never touched. Each sweep compares a time by Postgres's
clock with the moment before which everything written is known to be handled (`marks`). Each step
may be done twice, because orders and decisions are fenced by the row's state and attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from typing import Protocol
from uuid import UUID

from courant import bulk, clock
from courant.bulk import ChunkRef
from courant.consume import Producer
from courant.contracts import Command
from courant.directory.entries import Directory
from courant.lifecycle import GIVEN_UP, Move
from courant.records import Outgoing
from courant.topics import CHUNKS, DELIVERY, INBOX, PERSISTED, RECEIPTS, Channel, Lane, Positions
from recovery import rules
from recovery.rows import FIRST_PLACE, OverdueRow, Place, WaitLimit

ORDER_WAIT = timedelta(seconds=60)
"""How long after its row an order may still come.

A saver that dies between the two writes the order well within this time, once it runs again.
"""


class Rows(Protocol):
    """One transaction that runs under no hold and locks the rows that it returns.

    It skips rows that another transaction has locked. Every method that returns rows returns at
    most `limit` of them, the longest overdue first.
    """

    def passed(
        self, topics: Sequence[str], positions: Positions | None = None
    ) -> Mapping[str, datetime]:
        """Return for each topic the time before which everything written to it is handled.

        A topic of which this is not known is missing. Without `positions`, Postgres's own count.
        """

    def growth(self, since: datetime) -> Sequence[tuple[datetime, int]]:
        """Return the times of the marks since then, each with the records in `receipts` by then."""

    def due(self, limit: int) -> list[OverdueRow]:
        """Return waiting rows whose time has come since their last order."""

    def unclaimed(
        self, channel: Channel, lane: Lane, before: datetime, limit: int
    ) -> list[OverdueRow]:
        """Return rows of one lane that wait for no time and were last ordered before `before`."""

    def unstarted(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Return claimed rows whose lease ended before `delivery` and that are in no open call."""

    def unresolved(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Return claimed rows whose lease ended before `before` and that are in an open call."""

    def unanswered(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Return rows that a provider accepted before `before` and that had no receipt."""

    def expired(
        self,
        usual: timedelta,
        shorter: Sequence[WaitLimit],
        delivery: datetime,
        limit: int,
        after: Place,
    ) -> tuple[list[OverdueRow], Place]:
        """Return rows that waited longer than their template's limit, or `usual` without one.

        It looks at some times `limit` rows, the longest waiting first, from the first after
        `after`. The place that it returns is where the next call goes on: the beginning again once
        all rows were looked at.
        """

    def cancelled(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        """Return rows that wait for their turn and whose job was cancelled."""

    def issued(self, rows: Sequence[OverdueRow]) -> None:
        """Note that these rows have been given their next step now."""

    def incomplete(self, before: datetime, limit: int) -> list[ChunkRef]:
        """Return chunks that were last ordered before `before` and still lack rows.

        It looks at `limit` chunks. It marks complete chunks as saved, so that they are not looked
        at again.
        """

    def ordered(self, chunks: Sequence[ChunkRef]) -> None:
        """Note that these chunks have been ordered now."""

    def outlived(self, age: timedelta, limit: int) -> list[UUID]:
        """Return jobs older than `age` that are neither finished nor cancelled."""


class Store(Protocol):
    """What the sweeps need of a database."""

    def sweeping(self) -> AbstractContextManager[Rows]:
        """Begin a transaction; raises Unavailable under a hold."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a task works with besides the store."""

    producer: Producer
    directory: Directory
    positions: Positions  # of the groups that read orders, in the topics of orders
    grace: timedelta  # how long the receipts of an unknown outcome may take
    places: dict[str, Place] = field(default_factory=dict)  # up to where each walk has come


def due(store: Store, tools: Tools, limit: int) -> int:
    """Order deferred, freed, resent and scheduled rows once their time has come.

    They need no proof, because a claim has used or passed over their last order.
    """
    with store.sweeping() as rows:
        return issue(rows, tools, rows.due(limit), rules.order)


def lost_orders(store: Store, tools: Tools, limit: int) -> int:
    """Order rows again whose last order is lost.

    Proof: the deliverer has passed everything that was written a minute after that order.
    """
    with store.sweeping() as rows:
        passed = rows.passed(tuple(rules.ORDERS), tools.positions)
        unclaimed: list[OverdueRow] = []
        for channel, lane in product(Channel, Lane):
            until = passed.get(PERSISTED.topic(channel, lane))
            if until and len(unclaimed) < limit:
                left = limit - len(unclaimed)
                unclaimed += rows.unclaimed(channel, lane, until - ORDER_WAIT, left)
        return issue(rows, tools, unclaimed, rules.order)


def never_started(store: Store, tools: Tools, limit: int) -> int:
    """Free claimed rows whose lease ended before any call began.

    Proof: the saver has passed the lease's end in `delivery`, so a `started` would be known.
    """
    with store.sweeping() as rows:
        delivery, _receipts = folded(rows)
        unstarted = rows.unstarted(delivery, limit) if delivery else []
        return issue(rows, tools, unstarted, decide(Move.FREED, "its lease ended, no call began"))


def unknown(store: Store, tools: Tools, limit: int) -> int:
    """Send rows of unknown outcome again or give them up, as their template says.

    Proof: the saver has passed the lease's end in `delivery`, and in `receipts` a whole grace after
    it in which receipts came without a gap.
    """
    with store.sweeping() as rows:
        delivery, receipts = folded(rows)
        # A template that is only not read yet must not look as if it had no policy.
        if not delivery or not receipts or not tools.directory.is_read:
            return 0
        since = rules.reachable_since(rows.growth(receipts - tools.grace - rules.GAP))
        silent = rules.silent_before(receipts, tools.grace, since)
        if not silent:
            return 0
        unresolved = rows.unresolved(min(delivery, silent), delivery, limit)
        return issue(rows, tools, unresolved, partial(resolve, directory=tools.directory))


def unanswered(store: Store, tools: Tools, limit: int) -> int:
    """Fail rows that a provider accepted three days ago and of which no receipt came.

    Proof: the saver has folded every receipt of those three days.
    """
    with store.sweeping() as rows:
        delivery, receipts = folded(rows)
        if not delivery or not receipts:
            return 0
        silent = rows.unanswered(receipts - GIVEN_UP, delivery, limit)
        return issue(rows, tools, silent, decide(Move.UNANSWERED, "no receipt came"))


def expired(store: Store, tools: Tools, limit: int) -> int:
    """Fail rows that have waited for three days, or for the hours that their template allows.

    Proof: the saver has folded every decision that was made for the row before.
    """
    templates = list(tools.directory.templates.values())
    shorter = rules.shorter_limits(
        WaitLimit(version.id, version.version, version.valid_for_hours)
        for versions in templates
        for version in versions.values()
    )
    with store.sweeping() as rows:
        delivery, _receipts = folded(rows)
        if not delivery:
            return 0
        after = tools.places.get("expired", FIRST_PLACE)
        late, place = rows.expired(GIVEN_UP, shorter, delivery, limit, after)
        issued = issue(rows, tools, late, decide(Move.EXPIRED, "not sent in time"))
        tools.places["expired"] = place
        return issued


def cancelled(store: Store, tools: Tools, limit: int) -> int:
    """Cancel waiting rows of cancelled jobs.

    No claim takes them meanwhile. Proof: the saver has folded every decision made for the row.
    """
    with store.sweeping() as rows:
        delivery, _receipts = folded(rows)
        waiting = rows.cancelled(delivery, limit) if delivery else []
        return issue(rows, tools, waiting, decide(Move.CANCELLED, "its job was cancelled"))


def outlived(store: Store, tools: Tools, limit: int) -> int:
    """Cancel jobs that are so old that the saver would soon refuse their rows.

    They were paused, held or without their chunks. Nothing is noted: the command is written again
    until job-runner has read it.
    """
    with store.sweeping() as rows:
        jobs = rows.outlived(rules.JOB_KEPT, limit)
        now = clock.now()
        publish(tools.producer, [bulk.job_command(job, Command.CANCELLED, now) for job in jobs])
    return len(jobs)


def incomplete(store: Store, tools: Tools, limit: int) -> int:
    """Order chunks of jobs again of which rows are missing.

    Proof: job-runner and the saver have passed everything that was written a minute after the
    chunk's order.
    """
    with store.sweeping() as rows:
        inbox = rows.passed(INBOX.topics(Lane.BULK))
        passed = [*inbox.values(), *rows.passed((CHUNKS.name,), tools.positions).values()]
        if len(passed) < len(Channel) + 1:  # of some topic it is not known
            return 0
        chunks = rows.incomplete(min(passed) - ORDER_WAIT, limit)
        orders = [bulk.chunk_order(chunk.job_id, chunk.number) for chunk in chunks]
        publish(tools.producer, orders)
        if chunks:
            rows.ordered(chunks)
    return len(chunks)


def issue(
    rows: Rows,
    tools: Tools,
    overdue: Sequence[OverdueRow],
    step: Callable[[OverdueRow], Outgoing],
) -> int:
    """Write the next step of each row, then note it; return the number of rows.

    The records come first. A row that was noted, and whose record was then lost in a crash, would
    wait for a record that does not exist. Raises Unavailable; then the same rows are found again.
    """
    publish(tools.producer, [step(row) for row in overdue])
    if overdue:
        # Noted after the flush, so that whoever has passed this time in the topic has passed the
        # record.
        rows.issued(overdue)
    return len(overdue)


def publish(producer: Producer, records: Sequence[Outgoing]) -> None:
    """Produce the records and return once they are in every in-sync replica; raises Unavailable."""
    for record in records:
        producer.produce(record)
    if records:
        producer.flush()


def folded(rows: Rows) -> tuple[datetime | None, datetime | None]:
    """Return the times before which everything in `delivery` and in `receipts` is folded."""
    passed = rows.passed((DELIVERY.name, RECEIPTS.name))
    return passed.get(DELIVERY.name), passed.get(RECEIPTS.name)


def resolve(row: OverdueRow, directory: Directory) -> Outgoing:
    """Decide a row of unknown outcome by the policy of its template."""
    template = directory.template(row.template_id, row.template_version)
    # Templates are kept for good, so a template that is missing never forbade sending again.
    return rules.resolve(row, resends=template is None or template.resend_unknown)


def decide(move: Move, reason: str) -> Callable[[OverdueRow], Outgoing]:
    """Return the function that decides this move for a row."""
    return partial(rules.decide, move=move, reason=reason)
