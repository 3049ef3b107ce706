"""The calls of one claim, from `started` to their outcomes, as many at a time as there are threads.

Whatever happens, each entry that was claimed is told of while the lease lasts: its outcome, or that
it goes back. Only what the lease does not cover any more is passed over in silence.
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
    ProviderOutcome,
    Rejected,
    RetryAlone,
    Throttled,
    Unknown,
)
from deliverer.pool import Lease, Limits, Provider, make_call, outcome_label
from deliverer.rate import RateLimiter

log = logging.getLogger(__name__)

jitter = random.random  # spreads what comes back; hides nothing
SLICE_SECONDS = 0.25
"""How long to wait before asking again whether to stop."""
STARTED_TIME_MAX = timedelta(milliseconds=500)
"""For writing `started`, beyond a call's own time."""


@dataclass(frozen=True, slots=True)
class Route:
    """A provider, how fast it may be called, and whether it may be called at all."""

    provider: Provider
    limiter: RateLimiter
    breaker: Breaker
    entries_max: int = rules.ENTRIES_MAX  # a call


class InFlightCalls:
    """One claim's entries of one provider."""

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
        """Make the calls; what a call came to goes out together with what begins next."""
        most = rules.entries_max(self._route.limiter.per_second, self._route.entries_max)
        self._ready.extend(rules.group_into_calls(entries, most))
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
            return "no time was left for a call"
        return None

    def _startable_calls(self) -> tuple[list[Call], float]:
        """Give the calls that may begin now, and the seconds after which to ask for more."""
        calls: list[Call] = []
        while self._ready and len(self._in_flight) + len(calls) < self._limits.threads:
            if seconds := self._route.limiter.try_acquire(self._lane, len(self._ready[0])):
                return calls, seconds
            calls.append(Call(ids.new(clock.now()), self._ready.popleft()))
        return calls, SLICE_SECONDS

    def _make_call(self, call: Call) -> Sequence[ProviderOutcome]:
        return make_call(self._route.provider, call, self._lease, self._limits.call_time)

    def _wait_for_calls(self, seconds: float) -> None:
        """Wait for a call to end, or until more may begin."""
        seconds = min(seconds, SLICE_SECONDS)
        if not self._in_flight:
            if self._ready and not self._pending:
                time.sleep(seconds)
            return
        done, _ = wait(self._in_flight, seconds if self._ready else None, FIRST_COMPLETED)
        for future in done:
            self._finish_call(self._in_flight.pop(future), future.result())

    def _finish_call(self, call: Call, said: Sequence[ProviderOutcome]) -> None:
        if not said:
            log.warning("lease was over before a call", extra={"entries": len(call.entries)})
            return
        self._record_health(said)
        self.answered += len(said)
        answers: list[AttemptOutcome] = []
        throttled: list[CallEntry] = []
        for entry, each in zip(call.entries, said, strict=True):
            if isinstance(each, Throttled):
                throttled.append(entry)
            elif isinstance(each, RetryAlone):
                self._ready.appendleft((entry,))
            else:
                answers.append(self._attempt_outcome(entry, each))
                self._undurable.append((entry, each))
                self._sent_count += isinstance(each, Accepted)
        if throttled:
            self._ready.appendleft(tuple(throttled))
        # Also without a single answer: it closes the call. Of the others the next call tells.
        self._pending.append(rules.finished(call.id, answers))
        self._pending += rules.receipts(call.entries, said)

    def _record_health(self, said: Sequence[ProviderOutcome]) -> None:
        """Tell the provider's rate and breaker what a call came to."""
        breaker, limiter = self._route.breaker, self._route.limiter
        if trouble := [each for each in said if isinstance(each, AccountTrouble)]:
            breaker.open(trouble[0].reason)
        elif len(lost := [each for each in said if isinstance(each, Unknown)]) == len(said):
            breaker.record_failure(lost[0].reason)
        else:
            breaker.record_success()
        if any(isinstance(each, Throttled) for each in said):
            limiter.record_throttle()
        elif any(isinstance(each, Accepted) for each in said):
            limiter.record_success()

    def _attempt_outcome(
        self, entry: CallEntry, said: Accepted | Deferred | Rejected | Unknown | AccountTrouble
    ) -> AttemptOutcome:
        if isinstance(said, AccountTrouble):
            said = Deferred(said.reason, retry_after=self._route.breaker.pause)
        return rules.attempt_outcome(entry.row, said, jitter())

    def _release_unstarted(self, reason: str) -> None:
        """Put back what no call was begun for, while that is still ours to say."""
        entries = [entry for each in self._ready for entry in each]
        self._ready.clear()
        self.released += len(entries)
        if not self._lease.covers(timedelta()):
            log.warning("lease is over", extra={"entries": len(entries)})
            return
        pause = self._route.breaker.pause if self._route.breaker.is_open else timedelta()
        said = Deferred(reason, retry_after=pause)
        answers = [rules.attempt_outcome(each.row, said, jitter()) for each in entries]
        self._pending.append(rules.finished(ids.new(clock.now()), answers))
        self._undurable += [(each, said) for each in entries]
        log.info("claimed rows released", extra={"reason": reason, "entries": len(entries)})

    def _count_outcomes(self, durable: Sequence[tuple[CallEntry, ProviderOutcome]]) -> None:
        """Count what is durable now."""
        name, now = self._route.provider.name, clock.now()
        sent = metrics.STAGE_SECONDS.labels("sent", self._lane)
        tally: dict[str, int] = {}
        for entry, said in durable:
            outcome = outcome_label(said)
            tally[outcome] = tally.get(outcome, 0) + 1
            if isinstance(said, Accepted):
                sent.observe((now - entry.row.accepted_at).total_seconds())
        for outcome, times in tally.items():
            metrics.OUTCOMES.labels(name, outcome).inc(times)
