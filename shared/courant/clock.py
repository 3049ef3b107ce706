"""The two clocks a process has, behind a name, so that a simulation can have its own."""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Give the wall clock's time."""
    return datetime.now(UTC)


class Age:
    """How long ago something was, by the larger of the monotonic and the wall clock.

    A machine that was paused stops the monotonic clock; a wall clock can be set back.
    """

    def __init__(self) -> None:
        self._monotonic, self._wall = time.monotonic(), time.time()

    def seconds(self) -> float:
        """Give the age in seconds."""
        return max(time.monotonic() - self._monotonic, time.time() - self._wall)
