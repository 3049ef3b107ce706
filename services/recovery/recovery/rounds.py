"""The leader's rounds: a mark each second, then whatever is due of the sweeps and the upkeep."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from courant.consume import Producer
from courant.directory.entries import Directory
from courant.errors import Refused, Unavailable
from courant.runbooks import Runbook
from recovery import marks, rules
from recovery.leader import Lead
from recovery.store import PostgresStore
from recovery.sweeps import Tools
from recovery.tasks import TASKS, Task, run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundParts:
    """What the leader works with."""

    lead: Lead
    log: marks.Offsets
    producer: Producer
    directory: Directory
    lease: timedelta
    margin: timedelta
    grace: timedelta
    kept: timedelta  # a notification's content
    stopping: Callable[[], bool]


@dataclass(slots=True)
class Rounds:
    """The rounds, and when each task was last begun, by the monotonic clock."""

    parts: RoundParts
    begun: dict[str, float] = field(default_factory=dict)

    def go(self) -> None:
        """Make one round, if this process leads; raises Unavailable."""
        parts = self.parts
        store = parts.lead.take()
        if store is None:
            return
        marks.take(store, parts.log)
        if marks.lift(store, parts.lease, parts.margin):
            return
        places = parts.log.committed(rules.GROUPS)
        marks.show(store, places)
        # What an earlier round could not write comes first, or it would be queued anew each time.
        parts.producer.flush()
        tools = Tools(parts.producer, parts.directory, places, parts.grace, parts.kept)
        for task in TASKS:
            if self._is_due(task) and not parts.stopping():
                attempt(task, store, tools)

    def resign(self) -> None:
        """Let another lead."""
        self.parts.lead.resign()
        self.parts.log.close()

    def _is_due(self, task: Task) -> bool:
        now = time.monotonic()
        # A round comes a little early or late: a task of each second is due in every one.
        due = now - self.begun.get(task.name, -float("inf")) > task.every.total_seconds() - 0.5
        if due:
            self.begun[task.name] = now
        return due


def attempt(task: Task, store: PostgresStore, tools: Tools) -> None:
    """Do a task; one that cannot be done now, or at all, must not keep the others from theirs."""
    try:
        run(task, store, tools)
    except Unavailable as weather:
        log.warning("bad weather", extra={"task": task.name, "reason": str(weather)})
    except Refused as refusal:
        fields = {"task": task.name, "reason": str(refusal)}
        log.error(
            "Postgres refuses a task", extra={**fields, "runbook": Runbook.RECOVERY_TASK_REFUSED}
        )
