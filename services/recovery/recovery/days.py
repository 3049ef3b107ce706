"""Partitions of days: makes them before their day comes and drops them after their retention.

The saver makes a missing day by itself. Days are made ahead so that none of its batches waits.
"""

import logging
import re
from datetime import timedelta
from itertools import product

from courant import ids
from courant.postgres.days import DAILY, DROP_DAY, MAKE_DAY
from recovery.store import PostgresStore
from recovery.sweeps import Tools

log = logging.getLogger(__name__)

AHEAD = (1, 2)
STUBS_KEPT = timedelta(days=14)
"""How long a row is kept after its content, so that rereading the log cannot bring it back."""

NOW = "SELECT now()"
# It also finds partitions that a process detached before it died.
ALL = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relname ~ %(names)s AND pg_table_is_visible(oid)"""
DAY = re.compile(f"({'|'.join(DAILY)})_([0-9]+)")


def make(store: PostgresStore, _: object, __: int) -> int:
    """Make tomorrow and the day after; return the number of partitions made."""
    partitions = 0
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        for table, ahead in product(DAILY, AHEAD):
            [(missing,)] = rows.fetch(MAKE_DAY, daily=table, day=ids.day_at(now) + ahead)
            partitions += missing
    return partitions


def drop(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Drop days that are older than the retention; return the number of partitions dropped.

    Each has a transaction of its own, so that its lock is not held while the next is dropped.
    """
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        partitions = [day_in(name) for (name,) in rows.fetch(ALL, names=f"^{DAY.pattern}$")]
    oldest = ids.day_at(now - tools.kept - STUBS_KEPT)
    past = [(table, day) for table, day in partitions if day < oldest][:limit]
    for table, day in past:
        with store.sweeping() as rows:
            rows.fetch(DROP_DAY, daily=table, day=day)
        log.info("day dropped", extra={"partition": f"{table}_{day}"})
    return len(past)


def day_in(name: str) -> tuple[str, int]:
    """Return the table and the day of a partition, from its name."""
    match = DAY.fullmatch(name)
    assert match
    return match[1], int(match[2])
