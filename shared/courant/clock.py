"""The wall clock and the age of a moment, as functions that a simulation can replace."""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the wall clock's time, in UTC."""
    return datetime.now(UTC)


class Age:
    """The time since this object was made, by whichever of two clocks shows more.

    One clock is not enough: the monotonic clock stops while a machine is suspended, and the wall
    clock can be set back.
    """

    def __init__(self) -> None:
        self._monotonic, self._wall = time.monotonic(), time.time()

    def seconds(self) -> float:
        """Return the age in seconds."""
        return max(time.monotonic() - self._monotonic, time.time() - self._wall)
