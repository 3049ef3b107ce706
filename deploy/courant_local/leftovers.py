"""Ends processes of an earlier supervisor that died without stopping them."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil

STOP_SECONDS = 10.0
LOOK_SECONDS = 0.05


def identity(pid: int) -> dict[str, float | None]:
    """Return what distinguishes a process from a later one with the same pid."""
    return {"pid": pid, "born": born(pid)}


def born(pid: int | None) -> float | None:
    """Return the process's creation time; None if it does not exist."""
    try:
        return None if pid is None else round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def alive(known: Mapping[str, Any]) -> bool:
    """Return whether the recorded process still lives, and not another with its pid."""
    if known.get("born") is None or born(known["pid"]) != known["born"]:
        return False
    try:
        # In a container there may be no init that reaps orphans. A zombie is dead all the same.
        return bool(psutil.Process(known["pid"]).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def gone(known: Sequence[Mapping[str, Any]], seconds: float) -> bool:
    """Return whether all of them have ended, after waiting at most that long."""
    until = time.monotonic() + seconds
    while any(map(alive, known)):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def end(stack: Mapping[str, Any]) -> None:
    """End the surviving processes of an earlier stack: by their own signals, then by force."""
    left = list(filter(alive, stack.get("processes", ())))
    for known in left:
        # PostgreSQL waits for all clients after TERM. After INT it stops at once, in order.
        _signal(known, signal.SIGINT if known["kind"] == "postgres" else signal.SIGTERM)
    if not gone(left, STOP_SECONDS):
        for known in filter(alive, left):
            _signal(known, signal.SIGKILL)
        gone(left, STOP_SECONDS)


def _signal(known: Mapping[str, Any], number: signal.Signals) -> None:
    with suppress(psutil.Error):  # it has just ended
        psutil.Process(known["pid"]).send_signal(number)
