"""The steps of a batch of orders: claim rows, announce calls, make them, report the outcomes."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from courant import clock, ids
from courant.consume import Stage, Steps
from courant.contracts import KeyType, Outcome
from courant.errors import Unavailable
from courant.records import Batch, Dead, Effect, Record
from courant.topics import PERSISTED, Channel, Lane, group
from deliverer import rules
from deliverer.calls import CallEntry, ClaimedRow, Deferred, Rejected
from deliverer.content import EMPTIED, INACTIVE
from deliverer.flight import InFlightCalls, jitter
from deliverer.pool import Lease, Limits
from deliverer.route import Route

BATCH_AGE_MAX = timedelta(minutes=2)
"""How long one batch may take.

After that it is read again, and rows already sent are skipped. It must stay well below
`max.poll.interval.ms` (5 min), or Kafka reassigns our partitions.
"""
ORDERS_MAX = {Lane.PRIORITY: 500, Lane.NORMAL: 500, Lane.BULK: 150}
"""Orders of one batch.

Bulk batches are smaller, because the priority lane waits for the work that a batch does at once.
"""


class Store(Protocol):
    """What the deliverer needs of a database."""

    def claim(self, ids: Sequence[UUID], channel: Channel, lane: Lane) -> list[ClaimedRow]:
        """Claim those rows that are created and due; return them in the order of the ids.

        Raises Unavailable, and claims nothing, under a hold or on an unknown Postgres server.
        """


class Renderer(Protocol):
    """Renders the message of a row."""

    def render(self, row: ClaimedRow, channel: Channel) -> CallEntry | Deferred | Rejected:
        """Return the entry to send for a row, or the outcome of a row that cannot be sent."""


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What all lanes share."""

    store: Store
    renderer: Renderer
    routes: Mapping[Channel, Route]
    simulated: Route
    limits: Limits
    ready: Callable[[], str | None]  # returns None once rows can be rendered, else the reason
    stopping: Callable[[], bool]


def stages(parts: LaneParts) -> list[Stage[Any]]:
    """Return all stages of the deliverer: one for each channel and lane."""
    return [
        Stage(
            group("deliverer", PERSISTED, channel, lane),
            (PERSISTED.topic(channel, lane),),
            rules.read_order,
            LaneSender(parts, channel, lane).deliver,
            limit=ORDERS_MAX[lane],
        )
        for channel in parts.routes
        for lane in Lane
    ]


class LaneSender:
    """Sends one lane of one channel, with its own threads."""

    def __init__(self, parts: LaneParts, channel: Channel, lane: Lane) -> None:
        self._parts, self._channel, self._lane = parts, channel, lane
        self._route = parts.routes[channel]
        self._pool = self._make_pool()
        self._measured_rate = 0.0  # entries a second, in the claim before

    def _make_pool(self) -> Executor:
        return self._parts.limits.make_pool(self._channel, self._lane, self._parts.limits.threads)

    def deliver(self, batch: Batch[UUID]) -> Steps:
        """Send the rows that the batch orders; report every row that is claimed here.

        A second order for a row that is already claimed or sent claims nothing. If a batch stops
        half-way or rows are released, it raises Unavailable: the orders stay uncommitted and the
        batch starts again. New orders instead would wait behind up to a day's backlog.
        """
        orders = {order.value: order.record for order in batch.kept}
        remaining = list(orders)
        batch_time = self._parts.limits.start_lease(BATCH_AGE_MAX)
        while remaining:
            self._raise_if_blocked(batch_time)
            with self._route.breaker.admit() as probe:
                lease = self._parts.limits.start_lease(self._parts.limits.lease)
                limit = 1 if probe else self._claim_limit()
                claim_ids, remaining = remaining[:limit], remaining[limit:]
                rows = self._parts.store.claim(claim_ids, self._channel, self._lane)
                released = yield from self._send(rows, orders, lease)
            if released:
                raise Unavailable(f"{released} claimed rows were released")

    def _raise_if_blocked(self, batch_time: Lease) -> None:
        if reason := self._parts.ready():
            raise Unavailable(reason)
        if self._parts.stopping():
            raise Unavailable("the process stops; unclaimed orders stay in Kafka")
        if not batch_time.covers(timedelta()):
            raise Unavailable(f"the batch took longer than {BATCH_AGE_MAX.total_seconds():g} s")

    def _claim_limit(self) -> int:
        limits, route = self._parts.limits, self._route
        rate, at_once = route.limiter.per_second, limits.threads * route.entries_max
        time_for_calls = limits.lease - limits.call_time
        return rules.claim_limit(
            rate, self._measured_rate, at_once, time_for_calls, limits.claim_max
        )

    def _send(
        self, rows: Sequence[ClaimedRow], orders: Mapping[UUID, Record], lease: Lease
    ) -> Generator[Sequence[Effect], None, int]:
        """Send the claimed rows; return how many of them were released unsent."""
        simulated: list[CallEntry] = []
        real: list[CallEntry] = []
        failed: list[tuple[ClaimedRow, Deferred | Rejected]] = []
        for row in rows:
            rendered = self._parts.renderer.render(row, self._channel)
            if not isinstance(rendered, CallEntry):
                failed.append((row, rendered))
            elif row.key_type is KeyType.TEST:
                simulated.append(rendered)
            elif paused := self._route.senders.wait_for(rendered.source):
                wait, reason = paused
                failed.append((row, Deferred(f"its sender is paused: {reason}", wait)))
            else:
                real.append(rendered)
        yield unsendable_effects(failed, orders)
        released = 0
        for route, entries in ((self._parts.simulated, simulated), (self._route, real)):
            calls = InFlightCalls(
                route,
                self._lane,
                self._pool,
                lease,
                self._parts.limits,
                self._parts.stopping,
                orders,
            )
            started_at = time.monotonic()
            yield from calls.steps(entries)
            if route is self._route and calls.answered:
                seconds = max(time.monotonic() - started_at, 0.001)
                self._measured_rate = calls.answered / seconds
            released += calls.released
            if calls.abandoned:
                # The threads of abandoned calls may never end, so the lane gets others.
                self._pool.shutdown(wait=False)
                self._pool = self._make_pool()
        return released


def unsendable_effects(
    failed: Sequence[tuple[ClaimedRow, Deferred | Rejected]], orders: Mapping[UUID, Record]
) -> Sequence[Effect]:
    """Report the rows that could not be rendered; dead-letter the orders that need repair."""
    if not failed:
        return []
    answers = [rules.attempt_outcome(row, outcome, jitter()) for row, outcome in failed]
    dead = [
        Dead(orders[answer.id], answer.reason or "")
        for answer in answers
        # An inactive service may have a million rows, and none of them needs repair. Nor has one
        # whose content is emptied anything to send.
        if answer.outcome is Outcome.UNSENDABLE and answer.reason not in (INACTIVE, EMPTIED)
    ]
    return [*dead, rules.finished(ids.new(clock.now()), answers)]
