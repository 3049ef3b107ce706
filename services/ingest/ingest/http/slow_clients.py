"""The minimum speed of a client. One that sends single bytes could hold a slot for years."""

from dataclasses import dataclass

WAIT_SECONDS = 30.0
WAIT_BYTES_MIN = 240 * 1024
"""The bytes that must arrive, or be read, while we wait WAIT_SECONDS for a client: 8 KiB/s."""


@dataclass(slots=True)
class MinimumSpeed:
    """Measures one client. Only the time counts in which we wait for it.

    Neither the time in which we hold the client back counts, nor data that has already arrived.
    """

    _seconds: float = 0.0
    _size_bytes: int = 0

    def too_slow(self, seconds: float, size_bytes: int) -> bool:
        """Count a wait and the bytes that moved in it. Returns whether the client is too slow."""
        self._seconds += seconds
        self._size_bytes += size_bytes
        if self._seconds < WAIT_SECONDS:
            return False
        too_slow = self._size_bytes < WAIT_BYTES_MIN
        self._seconds, self._size_bytes = 0.0, 0
        return too_slow
