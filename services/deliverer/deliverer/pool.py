"""Calls in flight: a bounded pool of threads for each lane, each call made within its lease."""

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
    """What takes messages. It never sends one of a call's twice, whatever it meets."""

    @property
    def name(self) -> str: ...

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's messages and give one outcome for each, in order; never raises."""


class Lease:
    """What is left of a claim, counted from before it was asked for.

    Postgres's clock alone ends it; ours, which began earlier, only tells when to stop.
    """

    def __init__(self, length: timedelta, age: Callable[[], float]) -> None:
        self._length = length.total_seconds()
        self._age = age

    def covers(self, span: timedelta) -> bool:
        """Tell whether so much of it is left."""
        return self._age() + span.total_seconds() < self._length


def make_pool(channel: Channel, lane: Lane, threads: int) -> Executor:
    """Make a lane's pool: with one for several, bulk's slow calls would hold up priority."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"{channel}.{lane}")


def start_timer() -> Callable[[], float]:
    """Begin to count seconds."""
    return Age().seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how many, by which clock and on what."""

    lease: timedelta
    call_time: timedelta  # that one call can take: connecting, and waiting for its answer
    threads: int  # a lane
    claim_max: int = 500  # rows at a time
    start_timer: Callable[[], Callable[[], float]] = start_timer
    make_pool: Callable[[Channel, Lane, int], Executor] = make_pool

    def start_lease(self, length: timedelta) -> Lease:
        """Begin a lease of this length."""
        return Lease(length, self.start_timer())


def make_call(
    provider: Provider, call: Call, lease: Lease, call_time: timedelta
) -> Sequence[ProviderOutcome]:
    """Make a call and give one outcome for each entry; none where the lease no longer covers it.

    Then somebody else may hold these rows soon: nothing is sent, and nothing may be said.
    """
    if not lease.covers(call_time):
        return ()
    entries = len(call.entries)
    inside = metrics.IN_CALLS.labels(provider.name)
    inside.inc(entries)
    began = time.perf_counter()
    try:
        said = provider.send(call)
    finally:
        inside.dec(entries)
    metrics.PROVIDER_SECONDS.labels(provider.name).observe(time.perf_counter() - began)
    if len(said) != entries:
        return [Unknown("an outcome for each entry is wanted")] * entries
    return said


def outcome_label(said: ProviderOutcome) -> str:
    """Name an outcome for the metrics."""
    match said:
        case Accepted(_, outcome) | Rejected(_, outcome):
            return outcome
        case Deferred():
            return Outcome.DEFERRED
        case Unknown():
            return Outcome.UNKNOWN
        case _:
            return type(said).__name__.lower()
