"""The days' partitions: made before they come, dropped when nobody may ask for them any more.

The saver makes a day that is missing by itself; made ahead, none of its batches waits for one.
"""

import logging
import re
from contextlib import closing
from datetime import timedelta
from itertools import product

from psycopg2 import extensions
from sqlalchemy import Engine

from courant import ids
from courant.database import DAILY, DAYS_LOCK, day_sql, told_apart
from recovery.store import PostgresStore

log = logging.getLogger(__name__)

AHEAD = (1, 2)
STUBS_KEPT = timedelta(days=14)
"""How long a row outlives its content: a log that is read again must not bring it back."""

NOW = "SELECT now()"
IS_THERE = "SELECT to_regclass(%(name)s)"
# Those too that were detached by somebody who then died, or who has not finished.
ALL = """
    SELECT c.relname, i.inhdetachpending FROM pg_class c LEFT JOIN pg_inherits i ON inhrelid = c.oid
    WHERE c.relkind = 'r' AND c.relname ~ %(names)s AND pg_table_is_visible(c.oid)"""
DAY = re.compile(f"({'|'.join(DAILY)})_([0-9]+)")


def make(store: PostgresStore) -> int:
    """Make tomorrow and the day after; tell how many partitions."""
    made = 0
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        rows.run(DAYS_LOCK)
        for table, ahead in product(DAILY, AHEAD):
            day = ids.day_at(now) + ahead
            if rows.fetch(IS_THERE, name=f"{table}_{day}") == [(None,)]:
                rows.run(day_sql(table, day))
                made += 1
    return made


def drop(store: PostgresStore, engine: Engine, kept: timedelta) -> int:
    """Drop the days that are past what is kept of content and stubs; tell how many partitions."""
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        found = rows.fetch(ALL, names=f"^{DAY.pattern}$")
    oldest = ids.day_at(now - kept - STUBS_KEPT)
    past = [(name, pending) for name, pending in found if day_in(name) < oldest]
    if past:
        # Detaching beside running transactions cannot be done inside one.
        with told_apart(), engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            with closing(connection.connection.cursor()) as cursor:
                assert isinstance(cursor, extensions.cursor)
                for name, pending in past:
                    drop_one(cursor, name, pending)
    return len(past)


def day_in(name: str) -> int:
    """Read which day a partition's name says."""
    match = DAY.fullmatch(name)
    assert match
    return int(match[2])


def drop_one(cursor: extensions.cursor, name: str, pending: bool | None) -> None:
    """Detach a partition (pending: it was begun; None: it is done) and drop its table."""
    table, _, _ = name.rpartition("_")
    cursor.execute("SET lock_timeout = '2s'")
    if pending is not None:
        how = "FINALIZE" if pending else "CONCURRENTLY"
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {name} {how}")
    cursor.execute(f"DROP TABLE {name}")
    log.info("day dropped", extra={"partition": name})
