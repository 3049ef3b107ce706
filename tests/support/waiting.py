"""The one way to wait in these tests, and the one way to hold the product to a promised time.

What another process or thread is still going to write (a row, an offset, a file, the ledger, a log
line, a metric, a page) is waited for with `wait`, never read once and never slept for.
"""

import time
from collections.abc import Callable
from typing import TypeVar

WAIT_SECONDS = 180.0
"""Ends a test that would never pass. No test may need to be faster, however busy the machine is."""
LOOK_SECONDS = 0.05
ANSWER_SECONDS = 120.0
"""Of a real part over HTTP. Where the product promises less, `in_time` holds it to that."""
BUSY_SECONDS = 15.0
"""What a busy machine may add to a time that the product promises, where one try has to do."""

T = TypeVar("T")


def wait(condition: Callable[[], T], what: str = "it", seconds: float = WAIT_SECONDS) -> T:
    """Wait until a condition holds, and return its value.

    `what` names the condition in the message of a test that waited in vain.
    """
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"did not happen in {seconds:.0f} s: {what}"
        time.sleep(LOOK_SECONDS)
    return value


def in_time(promised_seconds: float, act: Callable[[], T]) -> T:
    """Act until one try takes less than the promised time, and return what that try returned.

    A busy machine only adds to a time. So one try in time shows that the product keeps its promise,
    and a product that breaks it is never in time.
    """
    took: list[float] = []

    def tried() -> tuple[T] | None:
        began = time.monotonic()
        value = act()
        took.append(time.monotonic() - began)
        return (value,) if took[-1] < promised_seconds else None

    until = time.monotonic() + WAIT_SECONDS
    while (found := tried()) is None:
        assert time.monotonic() < until, f"{min(took):.3f} s at best, {promised_seconds} s promised"
    return found[0]
