"""The rate limit of a provider: its quota is shared by the lanes, and priority goes first."""

import math
import time
from collections.abc import Callable
from threading import Lock

from courant.topics import Lane

FLOORS = {Lane.NORMAL: 0.1, Lane.BULK: 0.1}
"""The share of the rate that a lane always has, however much the lanes above it send."""
BURST_SECONDS = 0.5
WAITING_SECONDS = 0.5
"""How long a lane counts as waiting after `try_acquire` returned a wait."""
PAUSE_FIRST_SECONDS = 0.1
PAUSE_LONGEST_SECONDS = 5.0


class RateLimiter:
    """Token buckets, in recipients: one that all lanes share, and one for each lane's floor.

    A request succeeds while its bucket holds anything, and may overdraw the bucket, because a bulk
    call takes fifty at once. All lanes share the limiter; it is safe to use from any thread.
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
        """Use this rate from now on."""
        with self._lock:
            self._fill()
            self.per_second = per_second

    def try_acquire(self, lane: Lane, recipients: int) -> float:
        """Take tokens for the recipients and return 0, or return the seconds until the next try."""
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
        """Stop all lanes for a moment, because the provider reports that calls come too fast.

        Each further throttle doubles the pause, up to PAUSE_LONGEST_SECONDS.
        """
        with self._lock:
            now = self._now()
            if now < self._paused_until:
                return  # calls that were in flight together count as one throttle
            self._pause = min(max(2 * self._pause, PAUSE_FIRST_SECONDS), PAUSE_LONGEST_SECONDS)
            self._paused_until = now + self._pause

    def record_success(self) -> None:
        """Halve the next pause.

        It is not reset to zero. A provider with a steady limit throttles again soon, and the right
        pause is then found sooner than from the first one.
        """
        self._pause /= 2

    def _is_higher_lane_waiting(self, lane: Lane, now: float) -> bool:
        lanes_above = list(Lane)[: list(Lane).index(lane)]
        return any(now - self._waited_at[above] < WAITING_SECONDS for above in lanes_above)

    def _fill(self) -> float:
        now = self._now()
        added = (now - self._filled_at) * self.per_second
        self._filled_at = now
        self._shared = min(self._shared + added, self.per_second * BURST_SECONDS)
        for lane, share in FLOORS.items():
            capacity = share * self.per_second * BURST_SECONDS
            self._floors[lane] = min(self._floors[lane] + share * added, capacity)
        return now
