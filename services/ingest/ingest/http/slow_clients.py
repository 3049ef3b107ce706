"""How slow a client may be: with a byte now and then it would hold a place for years."""

from dataclasses import dataclass

WAIT_SECONDS = 30.0
WAIT_BYTES_MIN = 240 * 1024
"""That come, or are taken, while it is waited for so long: 8 KiB/s."""


@dataclass(slots=True)
class MinimumSpeed:
    """With one client. Only the time counts in which it is waited for: not while it is held back,
    nor what it has sent already.
    """

    _seconds: float = 0.0
    _size_bytes: int = 0

    def too_slow(self, seconds: float, size_bytes: int) -> bool:
        """Tell whether it is over with one who was waited for, and gave or took so much then."""
        self._seconds += seconds
        self._size_bytes += size_bytes
        if self._seconds < WAIT_SECONDS:
            return False
        slow = self._size_bytes < WAIT_BYTES_MIN
        self._seconds, self._size_bytes = 0.0, 0
        return slow
