"""Stands between the lanes and a provider that takes nothing: then nothing is claimed for it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from threading import Lock

from courant import metrics
from courant.errors import Unavailable

log = logging.getLogger(__name__)

FAILURES_MAX = 5
"""Calls in a row whose outcome is unknown: more of them would only be more to resolve."""
PAUSE_FIRST = timedelta(seconds=1)
PAUSE_LONGEST = timedelta(seconds=30)


class BreakerState(Enum):
    """Whether calls may be made."""

    CLOSED = "calls are made"
    OPEN = "no calls until the pause is over"
    HALF_OPEN = "one call is made, and decides"


class Breaker:
    """One for each provider; asked by every lane's thread."""

    def __init__(self, provider: str, now: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._now = provider, now
        self._lock = Lock()
        self._state = BreakerState.CLOSED
        self._probing = False
        self._failures = 0
        self._pause = PAUSE_FIRST
        self._paused_until = 0.0
        self._reason = ""
        metrics.BREAKER_OPEN.labels(provider).set(0)

    @contextmanager
    def admit(self) -> Iterator[bool]:
        """Let the caller claim and call; tells whether it is the single probe.

        Raises Unavailable where nothing is to be claimed.
        """
        probe = self._enter()
        try:
            yield probe
        finally:
            if probe:
                with self._lock:
                    self._probing = False

    @property
    def is_open(self) -> bool:
        """Tell whether no further call is to be made."""
        return self._state is BreakerState.OPEN

    @property
    def pause(self) -> timedelta:
        """Tell how long calls stop."""
        return self._pause

    def record_success(self) -> None:
        """Hear that the provider answers."""
        with self._lock:
            self._failures = 0
            if self._state is not BreakerState.HALF_OPEN:
                return  # also a late answer to a call from before it was opened
            self._state, self._pause = BreakerState.CLOSED, PAUSE_FIRST
        metrics.BREAKER_OPEN.labels(self._provider).set(0)
        log.info("provider resumed", extra={"provider": self._provider})

    def record_failure(self, reason: str) -> None:
        """Hear of a call whose outcome nobody knows."""
        with self._lock:
            self._failures += 1
            enough = self._failures >= FAILURES_MAX or self._state is BreakerState.HALF_OPEN
        if enough:
            self.open(reason)

    def open(self, reason: str) -> None:
        """Stop all calls for a while, longer after each probe that failed."""
        with self._lock:
            if self._state is BreakerState.OPEN:
                return
            if self._state is BreakerState.HALF_OPEN:
                self._pause = min(2 * self._pause, PAUSE_LONGEST)
            self._state, self._reason, self._failures = BreakerState.OPEN, reason, 0
            self._paused_until = self._now() + self._pause.total_seconds()
            pause = self._pause.total_seconds()
        metrics.BREAKER_OPEN.labels(self._provider).set(1)
        told = {"provider": self._provider, "reason": reason, "resumes_in_seconds": pause}
        log.error("provider paused", extra={**told, "runbook": "provider-paused"})

    def _enter(self) -> bool:
        with self._lock:
            if self._state is BreakerState.CLOSED:
                return False
            if self._now() < self._paused_until or self._probing:
                raise Unavailable(f"{self._provider} is paused: {self._reason}")
            self._state, self._probing = BreakerState.HALF_OPEN, True
            return True
