"""How fast a provider may be called: its quota, shared among lanes, priority first."""

import math
import time
from collections.abc import Callable
from threading import Lock

from courant.topics import Lane

FLOORS = {Lane.NORMAL: 0.1, Lane.BULK: 0.1}
"""The part of the rate that a lane has whatever the lanes above it want."""
BURST_SECONDS = 0.5
WAITING_SECONDS = 0.5
"""How long a lane counts as waiting after it was told to."""
PAUSE_FIRST_SECONDS = 0.1
PAUSE_LONGEST_SECONDS = 5.0


class RateLimiter:
    """Buckets of recipients: one for all lanes, and one for each lane's floor.

    A bucket is taken from while there is anything in it, and may then owe: a bulk call of fifty is
    one taking. Asked by every lane's thread.
    """

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self.per_second = per_second
        self._filled_at = now()
        self._shared = per_second * BURST_SECONDS
        self._floors = dict.fromkeys(FLOORS, 0.0)
        self._waited_at = dict.fromkeys(Lane, -math.inf)
        self._pause = 0.0
        self._paused_until = -math.inf

    def set(self, per_second: float) -> None:
        """Take another rate from now on."""
        with self._lock:
            self._fill()
            self.per_second = per_second

    def try_acquire(self, lane: Lane, recipients: int) -> float:
        """Take for this many recipients and give 0, or the seconds after which to ask again."""
        with self._lock:
            now = self._fill()
            if now < self._paused_until:
                return self._paused_until - now
            if self._floors.get(lane, 0.0) > 0:
                self._floors[lane] -= recipients
            elif self._shared <= 0 or self._is_higher_lane_waiting(lane, now):
                self._waited_at[lane] = now
                return max(-self._shared / self.per_second, 1 / self.per_second, 0.005)
            self._shared -= recipients
            self._waited_at[lane] = -math.inf
            return 0.0

    def record_throttle(self) -> None:
        """Stop a moment, longer from time to time: the provider says that it is too fast."""
        with self._lock:
            now = self._now()
            if now < self._paused_until:
                return  # calls that were in flight together are one warning
            self._pause = min(max(2 * self._pause, PAUSE_FIRST_SECONDS), PAUSE_LONGEST_SECONDS)
            self._paused_until = now + self._pause

    def record_success(self) -> None:
        """Forget half of the warnings: a steady limit is found again sooner than from nothing."""
        self._pause /= 2

    def _is_higher_lane_waiting(self, lane: Lane, now: float) -> bool:
        above = list(Lane)[: list(Lane).index(lane)]
        return any(now - self._waited_at[each] < WAITING_SECONDS for each in above)

    def _fill(self) -> float:
        now = self._now()
        added = (now - self._filled_at) * self.per_second
        self._filled_at = now
        self._shared = min(self._shared + added, self.per_second * BURST_SECONDS)
        for lane, part in FLOORS.items():
            most = part * self.per_second * BURST_SECONDS
            self._floors[lane] = min(self._floors[lane] + part * added, most)
        return now
