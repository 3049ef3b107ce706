"""The calls of one claim: from their `started` records to their outcomes, several at a time.

Every claimed entry is reported: with its outcome, as unknown, or as not sent. A report that comes
after the lease moves nothing if another process holds the entry, because it names its own attempt.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from datetime import timedelta
from uuid import UUID

from courant import clock, ids, metrics
from courant.consume import Steps
from courant.contracts import AttemptOutcome, Outcome
from courant.records import Dead, Effect, Record
from courant.runbooks import Runbook
from courant.topics import Lane
from deliverer import rules
from deliverer.calls import (
    Accepted,
    Call,
    CallEntry,
    Deferred,
    FinalOutcome,
    ProviderOutcome,
    RetryAlone,
    Throttled,
    Unknown,
)
from deliverer.pool import Lease, Limits, make_call, outcome_label
from deliverer.route import Route

log = logging.getLogger(__name__)

jitter = random.random  # spreads retries over time; the simulation replaces it
SLICE_SECONDS = 0.25
"""The longest wait before the next look at whether the process stops."""
STARTED_TIME_MAX = timedelta(milliseconds=500)
"""Time of the lease to reserve for writing `started`, in addition to the call's own time."""


OVERTIME_SECONDS = 1.0
"""How long after the lease's end a call's answer is still awaited. A process that was frozen past
the lease has the answers of its calls, but needs a moment to read them."""


class InFlightCalls:
    """The calls for one claim's entries of one provider."""

    def __init__(
        self,
        route: Route,
        lane: Lane,
        pool: Executor,
        lease: Lease,
        limits: Limits,
        stopping: Callable[[], bool],
        orders: Mapping[UUID, Record],
    ) -> None:
        self._route, self._lane, self._pool = route, lane, pool
        self._lease, self._limits, self._stopping = lease, limits, stopping
        self._orders = orders
        self._ready: deque[tuple[CallEntry, ...]] = deque()
        # Each call with the evidence's moment at which it began.
        self._in_flight: dict[Future[Sequence[ProviderOutcome]], tuple[Call, int]] = {}
        self._pending: list[Effect] = []
        self._undurable: list[tuple[CallEntry, ProviderOutcome]] = []  # outcomes not durable yet
        self._sent_count = 0
        self._lease_over_at: float | None = None
        self.answered = self.released = 0  # entries
        self.abandoned = 0  # calls

    def steps(self, entries: Iterable[CallEntry]) -> Steps:
        """Make the calls; yield finished calls' outcomes together with the next `started`."""
        limit = rules.entries_max(self._route.limiter.per_second, self._route.entries_max)
        self._ready.extend(rules.group_into_calls(entries, limit))
        while self._ready or self._in_flight or self._pending:
            if self._ready and (reason := self._stop_reason()):
                self._release_unstarted(reason)
            calls, seconds = self._startable_calls()
            records, durable = [*self._pending, *map(rules.started, calls)], self._undurable
            self._pending, self._undurable = [], []
            if self._sent_count and not (calls or self._ready or self._in_flight):
                records.append(rules.stat(self._lane, self._sent_count, clock.now()))
                self._sent_count = 0
            if records:
                yield records
                self._count_outcomes(durable)
            for call in calls:
                began = self._route.evidence.moment()
                self._in_flight[self._pool.submit(self._make_call, call)] = call, began
            self._wait_for_calls(seconds)

    def _stop_reason(self) -> str | None:
        if self._stopping():
            return "the process stops"
        if self._route.breaker.is_open:
            return "the provider is paused"
        if not self._lease.covers(self._limits.call_time + STARTED_TIME_MAX):
            return "the lease had no time left for a call"
        return None

    def _startable_calls(self) -> tuple[list[Call], float]:
        """Return the calls that may start now, and the seconds until more may start."""
        calls: list[Call] = []
        while self._ready and len(self._in_flight) + len(calls) < self._limits.threads:
            if seconds := self._route.limiter.try_acquire(self._lane, len(self._ready[0])):
                return calls, seconds
            calls.append(Call(ids.new(clock.now()), self._ready.popleft()))
        return calls, SLICE_SECONDS

    def _make_call(self, call: Call) -> Sequence[ProviderOutcome]:
        return make_call(self._route.provider, call, self._lease, self._limits.call_time)

    def _wait_for_calls(self, seconds: float) -> None:
        """Wait until a call ends or another may start."""
        seconds = min(seconds, SLICE_SECONDS)
        if not self._in_flight:
            if self._ready and not self._pending:
                time.sleep(seconds)
            return
        done, _ = wait(self._in_flight, seconds, FIRST_COMPLETED)
        for future in done:
            call, began = self._in_flight.pop(future)
            if outcomes := future.result():
                self._finish_call(call, outcomes, began)
            else:
                self._report_unsent(call)
        if self._in_flight and self._is_overtime():
            self._abandon_calls()

    def _is_overtime(self) -> bool:
        """Return whether the lease has been over for OVERTIME_SECONDS, as seen by this process."""
        if self._lease.covers(timedelta()):
            return False
        now = time.monotonic()
        self._lease_over_at = self._lease_over_at or now
        return now - self._lease_over_at >= OVERTIME_SECONDS

    def _abandon_calls(self) -> None:
        """Stop waiting for calls that have no answer; their threads are left to themselves."""
        for future, (call, began) in self._in_flight.items():
            if future.cancel():
                self._report_unsent(call)  # no thread was free to make the call
                continue
            self.abandoned += 1
            unknown = Unknown("the call had no answer when its lease ended")
            self._finish_call(call, [unknown] * len(call.entries), began)
        self._in_flight.clear()
        if self.abandoned:
            name = self._route.provider.name
            metrics.CALLS_ABANDONED.labels(name).inc(self.abandoned)
            fields = {"provider": name, "calls": self.abandoned}
            log.error("calls abandoned", extra={**fields, "runbook": Runbook.CALLS_ABANDONED})

    def _report_unsent(self, call: Call) -> None:
        """Report a call that was announced and then not made, because its lease was too short."""
        log.warning("lease ended before a call", extra={"entries": len(call.entries)})
        deferred = Deferred("not sent: the lease had no time left for the call")
        answers = [self._attempt_outcome(entry, deferred) for entry in call.entries]
        self._pending.append(rules.finished(call.id, answers))
        self._undurable += [(entry, deferred) for entry in call.entries]

    def _finish_call(self, call: Call, outcomes: Sequence[ProviderOutcome], began: int) -> None:
        judged = self._route.judge(call, outcomes, began)
        self.answered += len(judged)
        answers: list[AttemptOutcome] = []
        throttled: list[CallEntry] = []
        for entry, outcome in zip(call.entries, judged, strict=True):
            if isinstance(outcome, Throttled):
                throttled.append(entry)
            elif isinstance(outcome, RetryAlone):
                self._ready.appendleft((entry,))
            else:
                answers.append(self._attempt_outcome(entry, outcome))
                self._undurable.append((entry, outcome))
                self._sent_count += isinstance(outcome, Accepted)
        if throttled:
            self._ready.appendleft(tuple(throttled))
        self._pending += self._dead_letters(answers)
        # Written even without an answer, because this record closes the call. The entries that go
        # into another call are reported with that call.
        self._pending.append(rules.finished(call.id, answers))
        self._pending += rules.receipts(call.entries, judged)

    def _dead_letters(self, answers: Iterable[AttemptOutcome]) -> list[Dead]:
        """Return the orders of messages whose tries are used up; an operator may send them back."""
        return [
            Dead(self._orders[answer.id], answer.reason or "")
            for answer in answers
            if answer.blames and answer.outcome is Outcome.UNSENDABLE
        ]

    def _attempt_outcome(self, entry: CallEntry, outcome: FinalOutcome) -> AttemptOutcome:
        return rules.attempt_outcome(entry.row, outcome, jitter())

    def _release_unstarted(self, reason: str) -> None:
        """Defer the entries that no call was started for."""
        entries = [entry for group in self._ready for entry in group]
        self._ready.clear()
        self.released += len(entries)
        pause = self._route.breaker.pause if self._route.breaker.is_open else timedelta()
        deferred = Deferred(reason, retry_after=pause)
        answers = [self._attempt_outcome(entry, deferred) for entry in entries]
        self._pending.append(rules.finished(ids.new(clock.now()), answers))
        self._undurable += [(entry, deferred) for entry in entries]
        log.info("claimed rows released", extra={"reason": reason, "entries": len(entries)})

    def _count_outcomes(self, durable: Sequence[tuple[CallEntry, ProviderOutcome]]) -> None:
        """Count outcomes in the metrics, which must happen only after they are durable."""
        name, now = self._route.provider.name, clock.now()
        sent_seconds = metrics.STAGE_SECONDS.labels("sent", self._lane)
        counts: dict[str, int] = {}
        for entry, outcome in durable:
            label = outcome_label(outcome)
            counts[label] = counts.get(label, 0) + 1
            if isinstance(outcome, Accepted):
                sent_seconds.observe((now - entry.row.accepted_at).total_seconds())
        for label, count in counts.items():
            metrics.OUTCOMES.labels(name, label).inc(count)
