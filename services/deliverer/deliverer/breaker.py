"""The circuit breaker of a provider: while it is open, no rows are claimed for the provider."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from threading import Lock

from courant.errors import Unavailable
from courant.runbooks import Runbook

log = logging.getLogger(__name__)

FAILURES_MAX = 5
"""Consecutive calls with an unknown outcome that open the breaker.

Each further call would only add messages whose outcome has to be resolved later.
"""
PAUSE_FIRST = timedelta(seconds=1)
PAUSE_LONGEST = timedelta(seconds=10)
"""Short, because all that waits must be sent within a minute of the repair: a probe follows this
pause and a consumer's rest (20 s at most), then the other lanes end their own rest."""


class BreakerState(Enum):
    """Whether calls may be made."""

    CLOSED = "calls are made"
    OPEN = "no calls are made until the pause ends"
    HALF_OPEN = "one probe call is made; it closes or reopens the breaker"


class Breaker:
    """The circuit breaker of one provider. Safe to use from any thread; all lanes share it."""

    def __init__(self, provider: str, now: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._now = provider, now
        self._lock = Lock()
        self._state = BreakerState.CLOSED
        self._probing = False
        self._failures = 0
        self._pause = PAUSE_FIRST
        self._paused_until = 0.0
        self._reason = ""

    @contextmanager
    def admit(self) -> Iterator[bool]:
        """Let the caller claim rows and make calls; yield whether it is the single probe.

        Raises Unavailable while the provider is paused or another caller probes it.
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
        """Whether no further call may be made."""
        return self._state is BreakerState.OPEN

    @property
    def is_closed(self) -> bool:
        """Whether calls are made without a probe."""
        return self._state is BreakerState.CLOSED

    @property
    def pause(self) -> timedelta:
        """How long the current or the next pause lasts."""
        return self._pause

    def record_success(self) -> None:
        """Count a call that the provider answered; close the breaker if it was half open."""
        with self._lock:
            self._failures = 0
            if self._state is not BreakerState.HALF_OPEN:
                # If it is open, this is a late answer to a call from before the pause.
                return
            self._state, self._pause = BreakerState.CLOSED, PAUSE_FIRST
        log.info("provider resumed", extra={"provider": self._provider})

    def record_refusal(self) -> None:
        """Count a call whose messages were all refused: an answer, but no proof that others go."""
        with self._lock:
            self._failures = 0

    def record_failure(self, reason: str) -> None:
        """Count a call whose outcome is unknown; open the breaker after FAILURES_MAX in a row."""
        with self._lock:
            self._failures += 1
            limit_reached = self._failures >= FAILURES_MAX or self._state is BreakerState.HALF_OPEN
        if limit_reached:
            self.open(reason)

    def open(self, reason: str) -> None:
        """Stop all calls for a pause, which doubles after each failed probe."""
        with self._lock:
            if self._state is BreakerState.OPEN:
                return
            if self._state is BreakerState.HALF_OPEN:
                self._pause = min(2 * self._pause, PAUSE_LONGEST)
            self._state, self._reason, self._failures = BreakerState.OPEN, reason, 0
            self._paused_until = self._now() + self._pause.total_seconds()
            pause = self._pause.total_seconds()
        fields = {"provider": self._provider, "reason": reason, "resumes_in_seconds": pause}
        log.error("provider paused", extra={**fields, "runbook": Runbook.PROVIDER_PAUSED})

    def _enter(self) -> bool:
        with self._lock:
            if self._state is BreakerState.CLOSED:
                return False
            if self._now() < self._paused_until or self._probing:
                raise Unavailable(f"{self._provider} is paused: {self._reason}")
            self._state, self._probing = BreakerState.HALF_OPEN, True
            return True
