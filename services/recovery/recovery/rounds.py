"""The leader's rounds: each second every task that is due. Marks are taken beside them (`marker`).

Postgres's lock alone decides which process leads. Faust's election only says which one tries first.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from courant.backoff import Progress
from courant.consume import Producer
from courant.directory.entries import Directory
from courant.errors import Refused, Unavailable, Unfit
from courant.runbooks import Runbook
from courant.serve import Stop
from recovery import marks, rules
from recovery.leader import LeaderLock
from recovery.rows import Place
from recovery.store import PostgresStore
from recovery.sweeps import Tools
from recovery.tasks import TASKS, Task, run

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
UNLED_SECONDS = 30.0
"""How often a process that Faust did not elect tries to lead, and how long a leader may fail.

So recovery goes on where Faust does not, and a leader that reaches no Kafka makes room.
"""


@dataclass(frozen=True, slots=True)
class RoundParts:
    """What the rounds work with."""

    leader_lock: LeaderLock
    offsets: marks.Offsets
    producer: Producer
    directory: Directory
    grace: timedelta
    stopping: Callable[[], bool]


@dataclass(slots=True)
class Rounds:
    """Makes rounds; `begun` has when each task last began, by the monotonic clock.

    `places` has up to where the walks through rows have come. A new leader starts at the
    beginning.
    """

    parts: RoundParts
    begun: dict[str, float] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress("recovery.rounds"))
    places: dict[str, Place] = field(default_factory=dict)
    tried_at: float = field(default_factory=time.monotonic)  # when this process last tried to lead
    worked_at: float = field(default_factory=time.monotonic)  # when a round last was not stopped

    def run(self, is_elected: Callable[[], bool], stop: Stop) -> None:
        """Make a round each second while this process leads, until the stop; then resign."""
        while True:
            try:
                self.take_turn(is_elected())
            except Unavailable as unavailable:
                log.warning("dependency unavailable, retrying", extra={"reason": str(unavailable)})
            except Exception:
                log.exception(
                    "a round failed, the process ends",
                    extra={"runbook": Runbook.RECOVERY_ROUND_FAILED},
                )
                stop.set(failed=True)
            if stop.wait(ROUND_SECONDS):
                self.resign()
                return

    def take_turn(self, is_elected: bool) -> None:
        """Make a round if this process leads, is elected, or has not tried for a while.

        Raises Unavailable.
        """
        now, leads = time.monotonic(), self.parts.leader_lock.is_held
        if not leads and not is_elected and now < self.tried_at + UNLED_SECONDS:
            return
        self.tried_at = now
        self.worked_at = self.worked_at if leads else now
        try:
            self.make_round()
        except Unavailable:
            if now > self.worked_at + UNLED_SECONDS:
                self.resign()
            raise
        self.worked_at = now

    def make_round(self) -> None:
        """Make one round if this process leads; raises Unavailable."""
        self.progress.turn()
        parts = self.parts
        store = parts.leader_lock.take()
        if store is None or store.on_hold():
            return
        positions = parts.offsets.committed(rules.GROUPS)
        marks.show_committed(store, positions)
        # Records that an earlier round could not write are flushed first. Otherwise each round
        # would queue the same records again.
        parts.producer.flush()
        tools = Tools(parts.producer, parts.directory, positions, parts.grace, self.places)
        for task in TASKS:
            if self._is_due(task) and not parts.stopping():
                self.progress.turn()
                attempt(task, store, tools)

    def resign(self) -> None:
        """Let another process lead."""
        self.progress.turn()
        self.parts.leader_lock.resign()
        self.parts.offsets.close()

    def _is_due(self, task: Task) -> bool:
        now = time.monotonic()
        # A round comes a little early or late. With half a second of slack, a task of each second
        # is due in every round.
        due = now - self.begun.get(task.name, -float("inf")) > task.every.total_seconds() - 0.5
        if due:
            self.begun[task.name] = now
        return due


def attempt(task: Task, store: PostgresStore, tools: Tools) -> None:
    """Run a task and log its failure, so that a task that fails does not stop the others."""
    try:
        run(task, store, tools)
    except (Refused, Unfit) as refusal:
        fields = {"task": task.name, "reason": str(refusal)}
        log.error(
            "Postgres refuses a task", extra={**fields, "runbook": Runbook.RECOVERY_TASK_REFUSED}
        )
    except Unavailable as unavailable:
        log.warning(
            "dependency unavailable, retrying",
            extra={"task": task.name, "reason": str(unavailable)},
        )
