"""The commands' side of a stack: start it, ask for its status, stop it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from courant_local import home, leftovers, ports
from courant_local.child import tail, tether
from courant_local.plan import Plan
from courant_local.processes import answers_ready

LOOK_SECONDS = 0.1
STOP_SECONDS = 90
BY_ITSELF = ("kafka", "postgres")
"""Kinds that speak their own protocols: they are ready when they accept connections."""


class Failed(Exception):
    """The stack did not become ready, or it ended."""


def launch(plan: Plan, tied: bool) -> subprocess.Popen[bytes]:
    """Start the supervisor. Raises Occupied if the home has one already.

    A tied supervisor ends with this process.
    """
    with home.locked(plan.home / "lock"):
        pass
    log = plan.log("supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            (sys.executable, "-m", "courant_local.supervisor", json.dumps(plan.to_json())),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tether(signal.SIGTERM) if tied else None,
        )


def follow(
    plan: Plan, supervisor: subprocess.Popen[bytes], heard: Callable[[Mapping[str, Any]], None]
) -> None:
    """Report each step of the start until all is ready; raises Failed, with its reason."""
    while True:
        code = supervisor.poll()
        stack = home.read(plan.home / "stack.json")
        if stack.get("supervisor", {}).get("pid") == supervisor.pid:
            heard(stack)
            if stack["state"] == "ready":
                return
            if code is not None:
                raise Failed(stack["error"] or "the stack was stopped while it started")
        if code is not None:
            raise Failed(f"the supervisor ended with {code}:\n{tail(plan.log('supervisor'))}")
        time.sleep(LOOK_SECONDS)


def runs(place: Path) -> bool:
    """Return whether a supervisor lives for this home."""
    return leftovers.alive(home.read(place / "stack.json").get("supervisor", {}))


def status(place: Path) -> list[dict[str, Any]]:
    """Return each process of the stack as it is now: asked, not remembered."""
    stack = home.read(place / "stack.json")
    watched = leftovers.alive(stack.get("supervisor", {}))
    return [_now(known, watched) for known in stack.get("processes", ())]


def _now(known: Mapping[str, Any], watched: bool) -> dict[str, Any]:
    shown = ("name", "kind", "instance", "pid", "state", "url", "health", "log", "restarts")
    now = {name: known.get(name) for name in shown}  # an older supervisor wrote no `health`
    if not leftovers.alive(known):
        # The supervisor's last state stands, unless it said that the process runs.
        ended = "ended" if known["state"] in {"starting", "ready"} else known["state"]
        return {**now, "pid": None, "state": ended if watched else "stopped"}
    if psutil.Process(known["pid"]).status() == psutil.STATUS_STOPPED:
        return {**now, "state": "frozen"}
    if known["state"] == "ready" and not _ready(known):
        return {**now, "state": "not ready"}
    return now


def _ready(known: Mapping[str, Any]) -> bool:
    if known["kind"] in BY_ITSELF:
        return ports.answers(known["port"])
    return answers_ready(known.get("health_port", known["port"]))


def stop(place: Path) -> bool:
    """Stop the stack of a home and wait for its end; return False if there was no stack."""
    stack = home.read(place / "stack.json")
    supervisor = stack.get("supervisor", {})
    if not leftovers.alive(supervisor):
        leftovers.end(stack)
        return False
    process = psutil.Process(supervisor["pid"])
    process.send_signal(signal.SIGTERM)
    try:
        stopped = leftovers.gone([supervisor], STOP_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)  # the supervisor kills the rest at the second signal
        stopped = leftovers.gone([supervisor], STOP_SECONDS)
    if not stopped:
        raise Failed(f"the stack did not stop within {STOP_SECONDS} s")
    return True
