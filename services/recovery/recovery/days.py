"""The days' partitions: made before they come, dropped when nobody may ask for them any more.

The saver makes a day that is missing by itself; made ahead, none of its batches waits for one.
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
"""How long a row outlives its content: a log that is read again must not bring it back."""

NOW = "SELECT now()"
# Those too that were detached by somebody who then died.
ALL = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relname ~ %(names)s AND pg_table_is_visible(oid)"""
DAY = re.compile(f"({'|'.join(DAILY)})_([0-9]+)")


def make(store: PostgresStore, _: object, __: int) -> int:
    """Make tomorrow and the day after; tell how many partitions."""
    made = 0
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        for table, ahead in product(DAILY, AHEAD):
            [(missing,)] = rows.fetch(MAKE_DAY, daily=table, day=ids.day_at(now) + ahead)
            made += missing
    return made


def drop(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Drop the days that are past what is kept of content and stubs; tell how many partitions.

    Each in a transaction of its own: the lock that one takes is not held while the next is dropped.
    """
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        found = [day_in(name) for (name,) in rows.fetch(ALL, names=f"^{DAY.pattern}$")]
    oldest = ids.day_at(now - tools.kept - STUBS_KEPT)
    past = [(table, day) for table, day in found if day < oldest][:limit]
    for table, day in past:
        with store.sweeping() as rows:
            rows.fetch(DROP_DAY, daily=table, day=day)
        log.info("day dropped", extra={"partition": f"{table}_{day}"})
    return len(past)


def day_in(name: str) -> tuple[str, int]:
    """Read of which table and of which day a partition is, by its name."""
    match = DAY.fullmatch(name)
    assert match
    return match[1], int(match[2])
