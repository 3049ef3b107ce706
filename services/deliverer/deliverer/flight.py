"""The calls of one claim: from their `started` records to their outcomes, several at a time.

Every claimed entry is reported while the lease lasts: with its outcome, or as released. Only
entries that the lease no longer covers are not reported, because another process may hold them.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from datetime import timedelta

from courant import clock, ids, metrics
from courant.consume import Steps
from courant.contracts import AttemptOutcome
from courant.records import Outgoing
from courant.topics import Lane
from deliverer import rules
from deliverer.breaker import Breaker
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    CallEntry,
    Deferred,
    FinalOutcome,
    ProviderOutcome,
    RetryAlone,
    Throttled,
    Unknown,
)
from deliverer.pool import Lease, Limits, Provider, make_call, outcome_label
from deliverer.rate import RateLimiter

log = logging.getLogger(__name__)

jitter = random.random  # spreads retries over time; the simulation replaces it
SLICE_SECONDS = 0.25
"""The longest wait before the next look at whether the process stops."""
STARTED_TIME_MAX = timedelta(milliseconds=500)
"""Time of the lease to reserve for writing `started`, in addition to the call's own time."""


@dataclass(frozen=True, slots=True)
class Route:
    """A provider with its rate limit, its circuit breaker and the size of its calls."""

    provider: Provider
    limiter: RateLimiter
    breaker: Breaker
    entries_max: int = rules.ENTRIES_MAX  # of one call


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
    ) -> None:
        self._route, self._lane, self._pool = route, lane, pool
        self._lease, self._limits, self._stopping = lease, limits, stopping
        self._ready: deque[tuple[CallEntry, ...]] = deque()
        self._in_flight: dict[Future[Sequence[ProviderOutcome]], Call] = {}
        self._pending: list[Outgoing] = []
        self._undurable: list[tuple[CallEntry, ProviderOutcome]] = []  # outcomes not durable yet
        self._sent_count = 0
        self.answered = self.released = 0  # entries

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
                self._in_flight[self._pool.submit(self._make_call, call)] = call
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
        done, _ = wait(self._in_flight, seconds if self._ready else None, FIRST_COMPLETED)
        for future in done:
            self._finish_call(self._in_flight.pop(future), future.result())

    def _finish_call(self, call: Call, outcomes: Sequence[ProviderOutcome]) -> None:
        if not outcomes:
            log.warning("lease ended before a call", extra={"entries": len(call.entries)})
            return
        self._record_health(outcomes)
        self.answered += len(outcomes)
        answers: list[AttemptOutcome] = []
        throttled: list[CallEntry] = []
        for entry, outcome in zip(call.entries, outcomes, strict=True):
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
        # Written even without an answer, because this record closes the call. The entries that go
        # into another call are reported with that call.
        self._pending.append(rules.finished(call.id, answers))
        self._pending += rules.receipts(call.entries, outcomes)

    def _record_health(self, outcomes: Sequence[ProviderOutcome]) -> None:
        """Report a call's outcomes to the provider's breaker and rate limiter."""
        breaker, limiter = self._route.breaker, self._route.limiter
        unknowns = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
        if troubles := [outcome for outcome in outcomes if isinstance(outcome, AccountTrouble)]:
            breaker.open(troubles[0].reason)
        elif len(unknowns) == len(outcomes):
            breaker.record_failure(unknowns[0].reason)
        else:
            breaker.record_success()
        if any(isinstance(outcome, Throttled) for outcome in outcomes):
            limiter.record_throttle()
        elif any(isinstance(outcome, Accepted) for outcome in outcomes):
            limiter.record_success()

    def _attempt_outcome(
        self, entry: CallEntry, outcome: FinalOutcome | AccountTrouble
    ) -> AttemptOutcome:
        if isinstance(outcome, AccountTrouble):
            outcome = Deferred(outcome.reason, retry_after=self._route.breaker.pause)
        return rules.attempt_outcome(entry.row, outcome, jitter())

    def _release_unstarted(self, reason: str) -> None:
        """Defer the entries that no call was started for, if the lease still allows it."""
        entries = [entry for group in self._ready for entry in group]
        self._ready.clear()
        self.released += len(entries)
        if not self._lease.covers(timedelta()):
            log.warning("lease ended before rows were released", extra={"entries": len(entries)})
            return
        pause = self._route.breaker.pause if self._route.breaker.is_open else timedelta()
        deferred = Deferred(reason, retry_after=pause)
        answers = [rules.attempt_outcome(entry.row, deferred, jitter()) for entry in entries]
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
