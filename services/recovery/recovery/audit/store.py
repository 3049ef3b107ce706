"""The audit's SQL. It reads only, on a connection of its own.

One statement asks for at most `IDS_MAX` ids, by the primary key.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine

from courant.errors import Unavailable
from courant.lifecycle import State, quoted
from courant.postgres import database
from courant.postgres.database import array, classified_errors
from courant.postgres.folding import OWN_POSITIONS, Cursor
from courant.topics import JOBS, Partition
from recovery.audit.accepted import Accepted

# ruff: noqa: S608  (all SQL that is put together here is ours)

IDS_MAX = 1_000
# Only one process audits. The lock is not the leader's, so that neither waits for the other.
LOCK = "SELECT pg_try_advisory_lock(hashtext('courant.audit'))"
ROWS = f"""
    SELECT id, state IN ({quoted([State.CREATED, State.CLAIMED])}) FROM notifications
    WHERE id = ANY(%s::uuid[])"""
JOB_ROWS = "SELECT id FROM jobs WHERE id = ANY(%s::uuid[])"
ALIASES = "SELECT id FROM aliases WHERE id = ANY(%s::uuid[])"


class Found(NamedTuple):
    """What one look into Postgres found. Records that Postgres has not folded are in neither."""

    missing: list[Accepted]  # neither a row nor an alias
    unsent: set[UUID]  # rows that wait to be sent


def engine(url: str) -> Engine:
    """Return the audit's engine: positions and rows of a transaction are of the same moment."""
    return database.engine(
        url,
        "recovery",
        connections=None,
        statement_seconds=10,
        isolation_level="REPEATABLE READ",
    )


class AuditStore:
    """Looks for accepted ids in PostgreSQL, in the one process that holds the audit's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def take(self) -> bool:
        """Return whether this process audits; raises Unavailable."""
        if self._connection is not None:
            return True
        with classified_errors():
            connection = self._engine.connect()
            try:
                with connection.begin():
                    [(locked,)] = connection.exec_driver_sql(LOCK)
            except BaseException:
                connection.close()
                raise
        if locked:
            self._connection = connection
        else:
            connection.close()
        return bool(locked)

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return Postgres's positions in these partitions; raises Unavailable."""
        with self._transaction() as cursor:
            return _positions(cursor, partitions)

    def look(self, accepted: Sequence[Accepted]) -> Found:
        """Look for at most `IDS_MAX` records; raises Unavailable, Refused.

        Positions and rows are read in one snapshot. So after Postgres went back, or a restore set
        its positions back, no record counts as missing that is still to be folded.
        """
        with self._transaction() as cursor:
            positions = _positions(cursor, {each.partition for each in accepted})
            below = [each for each in accepted if each.offset < positions[each.partition]]
            jobs = {each.id for each in below if each.partition.topic == JOBS.name}
            notifications = {each.id for each in below} - jobs
            cursor.execute(ROWS, [array(notifications)])
            rows = dict(cursor.fetchall())
            found = {*rows, *(_ids(cursor, JOB_ROWS, jobs) if jobs else ())}
            if lost := (notifications | jobs) - found:
                found |= _ids(cursor, ALIASES, lost)
        return Found(
            [each for each in below if each.id not in found],
            {id for id, unsent in rows.items() if unsent},
        )

    def close(self) -> None:
        """Release the lock; another process may audit."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        if self._connection is None or self._connection.invalidated:
            raise Unavailable("the audit's connection is gone")
        with classified_errors(), self._connection.begin():
            cursor: Cursor = self._connection.connection.cursor()  # type: ignore[assignment]
            with cursor:
                yield cursor


def _positions(cursor: Cursor, partitions: Iterable[Partition]) -> dict[Partition, int]:
    asked = list(partitions)
    cursor.execute(OWN_POSITIONS, [array({each.topic_id for each in asked})])
    nexts = {(topic_id, number): next_ for topic_id, number, next_ in cursor}
    return {each: nexts.get((each.topic_id, each.number), 0) for each in asked}


def _ids(cursor: Cursor, sql: str, ids: set[UUID]) -> set[UUID]:
    cursor.execute(sql, [array(ids)])
    return {id for (id,) in cursor}
