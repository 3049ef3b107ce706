"""The leader's tasks: one table of everything that recovery does again and again."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from courant import metrics
from recovery import content, directory, sweeps, upkeep
from recovery.store import PostgresStore
from recovery.sweeps import Tools

log = logging.getLogger(__name__)

BITES_MAX = 20
"""How often a sweep that reaches its limit runs on before the other tasks have their turn."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that the leader does: how often, how many rows at once, and by which function.

    `do` takes the store, the tools and the limit, and returns the number of rows it handled.
    """

    name: str
    every: timedelta
    limit: int
    do: Callable[[PostgresStore, Tools, int], int]
    is_sweep: bool = False
    """A sweep runs on while it reaches its limit, and its rows are logged: they had stood still."""


SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
# The sweeps come first: what they do is overdue, and everything after them can wait.
# fmt: off
TASKS = (
    Task("due",            SECOND,      1000,   sweeps.due,            is_sweep=True),
    Task("replay-created", 5 * SECOND,  1000,   sweeps.lost_orders,    is_sweep=True),
    Task("never-started",  SECOND,      1000,   sweeps.never_started,  is_sweep=True),
    Task("unknown",        5 * SECOND,  200,    sweeps.unknown,        is_sweep=True),
    Task("unanswered",     MINUTE,      1000,   sweeps.unanswered,     is_sweep=True),
    Task("expired",        10 * SECOND, 1000,   sweeps.expired,        is_sweep=True),
    Task("cancelled",      SECOND,      1000,   sweeps.cancelled,      is_sweep=True),
    Task("outlived",       MINUTE,      100,    sweeps.outlived,       is_sweep=True),
    Task("incomplete",     5 * SECOND,  100,    sweeps.incomplete,     is_sweep=True),
    Task("receipts",       2 * SECOND,  1000,   upkeep.match_receipts),
    Task("orphan-calls",   MINUTE,      1000,   upkeep.close_orphans),
    Task("idempotency",    MINUTE,      5000,   upkeep.forget_keys),
    Task("aliases",        MINUTE,      5000,   upkeep.forget_aliases),
    Task("chunks",         MINUTE,      1000,   upkeep.forget_chunks),
    Task("jobs",           MINUTE,      1000,   upkeep.forget_jobs),
    Task("content",        10 * SECOND, 5000,   content.empty_notifications),
    Task("content-jobs",   MINUTE,      100,    content.empty_jobs),
    Task("marks",          10 * SECOND, 20_000, upkeep.thin_marks),
    Task("marks-all",      60 * MINUTE, 20_000, upkeep.thin_all_marks),
    Task("directory",      30 * SECOND, 500,    directory.reconcile),
    Task("days-made",      10 * MINUTE, 100,    upkeep.make_days),
    Task("days-dropped",   10 * MINUTE, 100,    upkeep.drop_days),
)
# fmt: on


def run(task: Task, store: PostgresStore, tools: Tools) -> int:
    """Run a task once, a sweep for as long as it reaches its limit; return the number of rows.

    Raises Unavailable, also under a hold, and Refused.
    """
    total = 0
    for _ in range(BITES_MAX if task.is_sweep else 1):
        rows = task.do(store, tools, task.limit)
        metrics.SWEPT.labels(task.name).inc(rows)
        total += rows
        if rows < task.limit:
            break
    if total and task.is_sweep:
        log.info("rows given their next step", extra={"sweep": task.name, "rows": total})
    return total
