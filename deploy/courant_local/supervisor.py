"""Starts a stack in order, restarts processes that end, and stops the stack in order.

Each home has one. It is a process of its own (`python -m courant_local.supervisor PLAN`), and
single-threaded so that it can fork safely. Other programs read its state in `stack.json` and send
TERM to stop it.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from courant import logs
from courant_local import aot_cache, home, jars, leftovers, ports, postgres, processes
from courant_local.child import Child, NotReady, tail
from courant_local.plan import Plan
from courant_local.processes import Part, Stage

STAGE_SECONDS = 90
LOOK_SECONDS = 0.1
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 10
CALM_SECONDS = 30
"""A process that lived this long starts again with the first backoff."""
TRIES_TO_START = 3

log = logging.getLogger("courant.local")


class StopAsked(Exception):
    """A signal asked the supervisor to stop."""


class Supervisor:
    """The stack's processes and their states."""

    def __init__(self, plan: Plan, stages: Sequence[Stage]) -> None:
        self._plan = plan
        self._stages = stages
        self._parts: list[Part] = []  # the started ones, in order of their start
        self._began: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # consecutive ends, by name
        self._again_at: dict[str, float] = {}
        self._training: Child | None = None
        self._signals = 0
        self._state = "starting"
        self._step = ""
        self._error = ""

    def run(self) -> int:
        """Start the stack, watch it until TERM or INT, stop it; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            self._demand_ports()
            for stage in self._stages:
                self._bring_up(stage)
            self._record(state="ready", step="")
            log.info("stack is ready", extra={"processes": len(self._parts)})
            self._train()
            while True:
                self._check()
        except StopAsked:
            log.info("stack stops")
        except (NotReady, ports.PortTaken, jars.JarsMissing, postgres.Unreachable) as raised:
            self._error = str(raised)
            log.error("stack did not start", extra={"reason": self._error})
        except Exception as raised:  # the outermost loop: report any error and stop in order
            self._error = f"{type(raised).__name__}: {raised}"
            log.exception("supervisor failed")
        finally:
            self._record(state="stopping")
            self._bring_down()
            self._record(state="failed" if self._error else "stopped")
        return 1 if self._error else 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _demand_ports(self) -> None:
        for part in (part for stage in self._stages for part in stage.parts):
            for kind, port in part.listens.items():
                ports.demand(kind, port)

    def _bring_up(self, stage: Stage) -> None:
        self._record(step=stage.title)
        until = time.monotonic() + STAGE_SECONDS
        for part in stage.parts:
            self._parts.append(part)
            self._start(part)
        for task in stage.tasks:
            task.start()
        try:
            while any(part.state != "ready" for part in stage.parts) or _busy(stage.tasks):
                self._check()
                self._demand_progress(stage, until)
        finally:
            for task in stage.tasks:
                if task.lives():
                    task.kill()

    def _demand_progress(self, stage: Stage, until: float) -> None:
        for part in stage.parts:
            tries = self._failures.get(part.name, 0)
            if tries >= (TRIES_TO_START if self._plan.restart else 1):
                raise NotReady(
                    f"{part.name} ended with {part.child.ended()} before it was ready; "
                    f"{part.child.log} ends with:\n{tail(part.child.log)}"
                )
            if time.monotonic() > until and part.state != "ready":
                raise NotReady(
                    f"{part.name} was not ready within {STAGE_SECONDS} s; "
                    f"{part.child.log} ends with:\n{tail(part.child.log)}"
                )
        for task in stage.tasks:
            if time.monotonic() > until and task.lives():
                raise NotReady(f"{task.name}: not done in {STAGE_SECONDS} s\n{tail(task.log)}")

    def _check(self) -> None:
        """Check every process once, then sleep briefly."""
        if self._signals:
            raise StopAsked
        now = time.monotonic()
        for part in self._parts:
            if part.name in self._again_at:
                if now >= self._again_at[part.name]:
                    self._start_again(part)
            elif part.child.ended() is not None:
                self._ended(part, now)
            elif part.state == "starting" and part.ready():
                self._record(part, "ready")
                if part.kind == "postgres" and part.restarts:
                    self._prepare_again()
        if self._training and not self._training.lives():
            self._training = None
        time.sleep(LOOK_SECONDS)

    def _start(self, part: Part) -> None:
        self._began[part.name] = time.monotonic()
        part.start()
        self._record(part, "starting")

    def _ended(self, part: Part, now: float) -> None:
        if part.state == "ended":
            return
        if part.state == "ready" and now - self._began[part.name] > CALM_SECONDS:
            self._failures[part.name] = 0
        failures = self._failures.get(part.name, 0)
        self._failures[part.name] = failures + 1
        if self._plan.restart:
            delay = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2**failures)
            self._again_at[part.name] = now + delay
            self._record(part, "restarting")
            return
        log.warning("process ended", extra=_identity(part))
        self._record(part, "ended")

    def _start_again(self, part: Part) -> None:
        del self._again_at[part.name]
        was = _identity(part)
        part.restarts += 1
        self._start(part)
        log.warning("process ended, started again", extra={**was, "new_pid": part.child.pid})

    def _prepare_again(self) -> None:
        """Create the tables again: the data folder of this Postgres may have been replaced."""
        for task in (task for stage in self._stages for task in stage.tasks):
            if not task.lives():
                task.start()

    def _train(self) -> None:
        """Make the JVM's cache for the next start, in the background and at low priority."""
        if any(part.kind == "kafka" for part in self._parts) and not aot_cache.made():
            command = (sys.executable, "-m", "courant_local.aot")
            self._training = Child("aot", command, self._plan.log("aot"))
            self._training.start()

    def _bring_down(self) -> None:
        if self._training:
            self._training.kill()
        for stage in reversed(self._stages):
            living = [part for part in stage.parts if part.child.lives()]
            for part in living:
                part.child.ask_to_stop()
            began = time.monotonic()
            while any(part.child.lives() for part in living):
                for part in living:
                    late = time.monotonic() - began > part.child.stop_seconds
                    # A second signal means that the user does not want to wait.
                    if (late or self._signals > 1) and part.child.lives():
                        log.warning("process did not stop, killed", extra=_identity(part))
                        part.child.kill()
                time.sleep(0.02)
            for part in stage.parts:
                part.state = "stopped"

    def _record(
        self, part: Part | None = None, of: str = "", *, state: str = "", step: str | None = None
    ) -> None:
        """Write the current state to stack.json."""
        if part:
            part.state = of
        self._state = state or self._state
        self._step = self._step if step is None else step
        value = {
            "supervisor": leftovers.identity(os.getpid()),
            "state": self._state,
            "step": self._step,
            "error": self._error,
            "plan": self._plan.to_json(),
            "processes": [_entry(each) for each in self._parts],
        }
        home.write(self._plan.home / "stack.json", value)


def _busy(tasks: Sequence[Child]) -> bool:
    """Return whether a task still runs; raises NotReady for one that failed."""
    for task in tasks:
        if task.ended():
            raise NotReady(
                f"{task.name} ended with {task.ended()}; {task.log} ends with:\n{tail(task.log)}"
            )
    return any(task.lives() for task in tasks)


def _identity(part: Part) -> dict[str, object]:
    return {"process_name": part.name, "pid": part.child.pid, "exit": part.child.ended()}


def _entry(part: Part) -> dict[str, object]:
    return {
        "name": part.name,
        "kind": part.kind,
        "instance": part.instance,
        "pid": part.child.pid,
        "born": leftovers.born(part.child.pid),
        "state": part.state,
        "restarts": part.restarts,
        "url": part.url,
        "health": part.health_url,
        "port": part.port,
        "health_port": part.health_port,
        "log": str(part.child.log),
    }


def main(plan_json: str) -> int:
    """Supervise the stack of this plan, in the JSON of `Plan.to_json`."""
    logs.start("supervisor", "json", "info")
    # A local stack must never reach the user's own AWS account, whatever the environment holds.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    # `courant env` sets the owner's DATABASE_URL. A process without a role would inherit it.
    os.environ.pop("DATABASE_URL", None)
    plan = Plan.from_json(json.loads(plan_json))
    try:
        with home.locked(plan.home / "lock"):
            leftovers.end(home.read(plan.home / "stack.json"))
            return Supervisor(plan, processes.stages(plan)).run()
    except home.Occupied as raised:
        log.error("home is occupied", extra={"reason": str(raised)})
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
