"""How calls are made: the lease and limits of a claim, the threads of a lane, one provider call."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from courant import metrics
from courant.clock import Age
from courant.contracts import Outcome
from courant.topics import Channel, Lane
from deliverer.calls import Accepted, Call, Deferred, ProviderOutcome, Rejected, Unknown


class Provider(Protocol):
    """A provider of messages. It never sends a call's message twice, whatever error it meets."""

    @property
    def name(self) -> str: ...

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's messages; return one outcome for each, in order. Never raises."""


class Lease:
    """How much time is left of a claim, counted from just before the claim was requested.

    Only Postgres's clock ends a claim. This clock starts earlier, so it stops us in time.
    """

    def __init__(self, length: timedelta, age: Callable[[], float]) -> None:
        self._length = length.total_seconds()
        self._age = age

    def covers(self, span: timedelta) -> bool:
        """Return whether at least this much time is left."""
        return self._age() + span.total_seconds() < self._length


def make_pool(channel: Channel, lane: Lane, threads: int) -> Executor:
    """Make the thread pool of one lane.

    Lanes do not share a pool, because slow bulk calls would hold up the priority lane.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix=f"{channel}.{lane}")


def start_timer() -> Callable[[], float]:
    """Start a timer; return the function that returns its seconds."""
    return Age().seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of time and number, and the clock and the threads to use."""

    lease: timedelta
    call_time: timedelta  # the longest time of one call: to connect and to wait for the answer
    threads: int  # of each lane
    claim_max: int = 500  # rows of one claim
    start_timer: Callable[[], Callable[[], float]] = start_timer
    make_pool: Callable[[Channel, Lane, int], Executor] = make_pool

    def start_lease(self, length: timedelta) -> Lease:
        """Start a lease of this length."""
        return Lease(length, self.start_timer())


def make_call(
    provider: Provider, call: Call, lease: Lease, call_time: timedelta
) -> Sequence[ProviderOutcome]:
    """Make a call and return one outcome for each entry, or none if the lease is too short for it.

    If the lease is too short, another process may soon claim these rows, so nothing is sent.
    """
    if not lease.covers(call_time):
        return ()
    entries = len(call.entries)
    in_calls = metrics.IN_CALLS.labels(provider.name)
    in_calls.inc(entries)
    started_at = time.perf_counter()
    try:
        outcomes = provider.send(call)
    finally:
        in_calls.dec(entries)
    metrics.PROVIDER_SECONDS.labels(provider.name).observe(time.perf_counter() - started_at)
    if len(outcomes) != entries:
        return [Unknown("the provider did not return one outcome for each entry")] * entries
    return outcomes


def outcome_label(outcome: ProviderOutcome) -> str:
    """Return the outcome's label in the metrics."""
    match outcome:
        case Accepted(_, label) | Rejected(_, label):
            return label
        case Deferred():
            return Outcome.DEFERRED
        case Unknown():
            return Outcome.UNKNOWN
        case _:
            return type(outcome).__name__.lower()
