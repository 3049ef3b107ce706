"""Processes of an earlier supervisor that died without stopping them."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil

STOP_SECONDS = 10.0
LOOK_SECONDS = 0.05


def identity(pid: int) -> dict[str, float | None]:
    """Give what tells a process from a later one with the same number."""
    return {"pid": pid, "born": born(pid)}


def born(pid: int | None) -> float | None:
    """Give when the process was made, None where there is none."""
    try:
        return None if pid is None else round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def alive(known: Mapping[str, Any]) -> bool:
    """Say whether the very process that was written down still lives."""
    if known.get("born") is None or born(known["pid"]) != known["born"]:
        return False
    try:
        # In a container nobody may be there to bury an orphan: it is dead all the same.
        return bool(psutil.Process(known["pid"]).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def gone(known: Sequence[Mapping[str, Any]], seconds: float) -> bool:
    """Say whether all of them have ended, within that time."""
    until = time.monotonic() + seconds
    while any(map(alive, known)):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def end(stack: Mapping[str, Any]) -> None:
    """End what still lives of an earlier stack: by its own signal, then by force."""
    left = list(filter(alive, stack.get("processes", ())))
    for known in left:
        # PostgreSQL takes TERM for "when everybody has gone", INT for "now, and in order".
        _signal(known, signal.SIGINT if known["kind"] == "postgres" else signal.SIGTERM)
    if not gone(left, STOP_SECONDS):
        for known in filter(alive, left):
            _signal(known, signal.SIGKILL)
        gone(left, STOP_SECONDS)


def _signal(known: Mapping[str, Any], number: signal.Signals) -> None:
    with suppress(psutil.Error):  # it has just ended
        psutil.Process(known["pid"]).send_signal(number)
