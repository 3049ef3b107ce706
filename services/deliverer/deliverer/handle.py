"""What the deliverer does with a batch of orders: claim, say what begins, call, say what came."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
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
from deliverer.content import INACTIVE
from deliverer.flight import InFlightCalls, Route, jitter
from deliverer.pool import Lease, Limits

BATCH_AGE_MAX = timedelta(minutes=2)
"""Of a batch at work; then it is read again, and what is sent already passed over at once. Kafka
takes the partitions of who has not polled for five minutes."""
ORDERS_MAX = {Lane.PRIORITY: 500, Lane.NORMAL: 500, Lane.BULK: 150}
"""A batch. The bulk lane takes smaller bites: for what is done at once the priority lane waits."""


class Store(Protocol):
    """What the deliverer needs of a database."""

    def claim(self, ids: Sequence[UUID], channel: Channel, lane: Lane) -> list[ClaimedRow]:
        """Claim those of the rows that wait and are due, in the order of the ids.

        Raises Unavailable under a hold, or where the server is not known: then nothing is claimed.
        """


class Renderer(Protocol):
    """What turns a row into a message."""

    def render(self, row: ClaimedRow, channel: Channel) -> CallEntry | Deferred | Rejected:
        """Write what is sent for a row, or say why it cannot be sent."""


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What all lanes share."""

    store: Store
    renderer: Renderer
    routes: Mapping[Channel, Route]
    simulated: Route
    limits: Limits
    ready: Callable[[], str | None]  # None once messages can be written, else why not
    stopping: Callable[[], bool]


def stages(parts: LaneParts) -> list[Stage[Any]]:
    """Give everything the deliverer consumes: each channel and lane by itself."""
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
    """One channel's lane, and its threads."""

    def __init__(self, parts: LaneParts, channel: Channel, lane: Lane) -> None:
        self._parts, self._channel, self._lane = parts, channel, lane
        self._route = parts.routes[channel]
        self._pool = parts.limits.make_pool(channel, lane, parts.limits.threads)
        self._measured_rate = 0.0  # entries a second, in the claim before

    def deliver(self, batch: Batch[UUID]) -> Steps:
        """Send what the batch orders. Whatever is claimed here is told of before this ends.

        A second order of a row that is claimed or sent claims nothing. Where a batch is left
        half-way, or some of it was given back, its orders stay in the log, and it begins again:
        new orders would stand behind a day's backlog.
        """
        orders = {each.value: each.record for each in batch.kept}
        todo = list(orders)
        oldest = self._parts.limits.start_lease(BATCH_AGE_MAX)
        while todo:
            self._raise_if_blocked(oldest)
            with self._route.breaker.admit() as probe:
                lease = self._parts.limits.start_lease(self._parts.limits.lease)
                most = 1 if probe else self._claim_limit()
                taken, todo = todo[:most], todo[most:]
                rows = self._parts.store.claim(taken, self._channel, self._lane)
                released = yield from self._send(rows, orders, lease)
            if released:
                raise Unavailable(f"{released} claimed rows were released")

    def _raise_if_blocked(self, oldest: Lease) -> None:
        if reason := self._parts.ready():
            raise Unavailable(reason)
        if self._parts.stopping():
            raise Unavailable("stopping: what is not claimed stays in the log")
        if not oldest.covers(timedelta()):
            raise Unavailable("the batch takes longer than partitions are kept without a poll")

    def _claim_limit(self) -> int:
        limits, route = self._parts.limits, self._route
        rate, at_once = route.limiter.per_second, limits.threads * route.entries_max
        room = limits.lease - limits.call_time
        return rules.claim_limit(rate, self._measured_rate, at_once, room, limits.claim_max)

    def _send(
        self, rows: Sequence[ClaimedRow], orders: Mapping[UUID, Record], lease: Lease
    ) -> Generator[Sequence[Effect], None, int]:
        """Send what is claimed; gives how many of them were given back."""
        written = [(row, self._parts.renderer.render(row, self._channel)) for row in rows]
        failed = [(row, made) for row, made in written if not isinstance(made, CallEntry)]
        yield unsendable_effects(failed, orders)
        tests = [made for row, made in written if isinstance(made, CallEntry) and is_test(row)]
        others = [made for row, made in written if isinstance(made, CallEntry) and not is_test(row)]
        released = 0
        for route, entries in ((self._parts.simulated, tests), (self._route, others)):
            calls = InFlightCalls(
                route, self._lane, self._pool, lease, self._parts.limits, self._parts.stopping
            )
            began = time.monotonic()
            yield from calls.steps(entries)
            if route is self._route and calls.answered:
                self._measured_rate = calls.answered / max(time.monotonic() - began, 0.001)
            released += calls.released
        return released


def is_test(row: ClaimedRow) -> bool:
    """Tell whether it came by a test key: no provider hears of it."""
    return row.key_type is KeyType.TEST


def unsendable_effects(
    failed: Sequence[tuple[ClaimedRow, Deferred | Rejected]], orders: Mapping[UUID, Record]
) -> Sequence[Effect]:
    """Tell of rows that no provider will hear of, and put the orders of those aside for repair."""
    if not failed:
        return []
    answers = [rules.attempt_outcome(row, said, jitter()) for row, said in failed]
    dead = [
        Dead(orders[each.id], each.reason or "")
        for each in answers
        # Of a service that was switched off there may be a million, and nothing to repair.
        if each.outcome is Outcome.UNSENDABLE and each.reason != INACTIVE
    ]
    return [*dead, rules.finished(ids.new(clock.now()), answers)]
