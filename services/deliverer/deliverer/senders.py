"""Pauses of single senders: From addresses and SMS origins that the provider does not accept.

A fault of one sender stops only its own messages. They wait without blame, and one of them probes
after each pause, so that all are sent soon after the repair.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from uuid import UUID

from courant.runbooks import Runbook

log = logging.getLogger(__name__)

PAUSE_FIRST_SECONDS = 1.0
PAUSE_LONGEST_SECONDS = 15.0
"""Short, because a repaired sender must have sent everything within a minute: a probe after this
pause, then the others after at most one and a half of it."""
WAIT_SHORTEST_SECONDS = 1.0
UNSEEN_SECONDS = 300.0
"""A paused sender that no message has used for this long is forgotten."""


@dataclass(slots=True)
class Pause:
    """The pause of one sender."""

    reason: str
    seconds: float
    until: float
    seen_at: float


class Senders:
    """The paused senders of one provider. Safe to use from any thread; all lanes share it."""

    def __init__(self, provider: str = "", now: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._now = provider, now
        self._lock = Lock()
        self._paused: dict[str, Pause] = {}

    def wait_for(self, source: str) -> tuple[timedelta, str] | None:
        """Return how long a message of this source must wait, and why; None if it may be sent.

        After a pause it lets one message through, and pauses for as long again.
        """
        if not self._paused:
            return None
        with self._lock:
            pause = self._paused.get(identity(source))
            if not pause:
                return None
            now = self._now()
            pause.seen_at = now
            if now >= pause.until:
                pause.until = now + pause.seconds
                return None
            return timedelta(seconds=max(pause.until - now, WAIT_SHORTEST_SECONDS)), pause.reason

    def fail(self, source: str, service: UUID, reason: str) -> timedelta:
        """Pause a sender that the provider refused, or lengthen its pause; return the pause."""
        name, now = identity(source), self._now()
        with self._lock:
            earlier = self._paused.get(name)
            seconds = PAUSE_FIRST_SECONDS
            if earlier:
                seconds = min(2 * earlier.seconds, PAUSE_LONGEST_SECONDS)
            self._paused[name] = Pause(reason, seconds, now + seconds, now)
        if not earlier:
            fields = {"provider": self._provider, "service": service, "reason": reason}
            log.error("sender paused", extra={**fields, "runbook": Runbook.SENDER_PAUSED})
        return timedelta(seconds=seconds)

    def accept(self, source: str) -> None:
        """Note that the provider accepted a message of this source; its pause ends."""
        if not self._paused:
            return
        with self._lock:
            ended = self._paused.pop(identity(source), None)
        if ended:
            log.info("sender resumed", extra={"provider": self._provider})

    def count(self) -> int:
        """Return how many senders are paused, and forget those that no message uses any more."""
        with self._lock:
            oldest = self._now() - UNSEEN_SECONDS
            self._paused = {
                name: pause for name, pause in self._paused.items() if pause.seen_at > oldest
            }
            return len(self._paused)


def identity(source: str) -> str:
    """Return the address of a From header, or the origin of an SMS."""
    return source.rpartition("<")[2].rstrip(">")
