"""Postgres as a fold of the log: the transaction that folds a batch also moves the position on.

A Postgres that lost commits, or was restored from last week's backup, therefore shows what it
lacks. The service that folds reads exactly those records again.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

from psycopg2 import extensions
from sqlalchemy import Connection, Engine

from courant.errors import Behind, require
from courant.postgres.database import HOLD, classified_errors, hold_after_restart
from courant.records import Keep, Span
from courant.topics import Partition, Positions

T = TypeVar("T")
Cursor: TypeAlias = extensions.cursor

# Locks the positions, moves them on and returns the old ones, in one statement. It never moves one
# backwards, because a process that was frozen may come late with offsets that others have passed.
MOVE_ON = """
    INSERT INTO positions AS p (topic_id, partition, next)
    SELECT * FROM unnest(%(topics)s::uuid[], %(numbers)s::int[], %(ends)s::bigint[]) ORDER BY 1, 2
    ON CONFLICT (topic_id, partition) DO UPDATE SET next = greatest(p.next, excluded.next)
    RETURNING topic_id, partition, coalesce(old.next, 0)"""
POSITIONS = "SELECT topic_id, partition, next FROM positions WHERE topic_id = ANY(%s)"
SKIP = """
    INSERT INTO positions AS p (topic_id, partition, next)
    VALUES (%(topic_id)s, %(number)s, %(next)s)
    ON CONFLICT (topic_id, partition) DO UPDATE SET next = greatest(p.next, excluded.next)"""


class Folding:
    """The base of every store that folds the log: one transaction a batch, with its position."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def compare(self, positions: Positions) -> None:
        """Raise a hold in Postgres, and Behind, if Postgres's positions are before these."""
        with self.transaction() as (_, cursor):
            hold_after_restart(cursor)
            cursor.execute(POSITIONS, [[partition.topic_id for partition in positions]])
            require(positions, positions_of(positions, cursor))

    def skip(self, starts: Positions) -> None:
        """Move the positions on to where the log begins, because earlier records have left it."""
        with self.transaction() as (_, cursor):
            for partition, start in starts.items():
                row = {"topic_id": partition.topic_id, "number": partition.number, "next": start}
                cursor.execute(SKIP, row)

    @contextmanager
    def moving_on(self, span: Span) -> Iterator[tuple[Connection, Cursor, Positions]]:
        """Begin a transaction that moves the positions past `span`; yields the old positions.

        Raises Behind, and the hold, if Postgres lacks records from before `span`.
        """
        with self.transaction() as (connection, cursor):
            hold_after_restart(cursor)
            columns = {
                "topics": [partition.topic_id for partition in span],
                "numbers": [partition.number for partition in span],
                "ends": [offsets.stop for offsets in span.values()],
            }
            cursor.execute(MOVE_ON, columns)
            old = positions_of(span, cursor)
            require({partition: offsets.start for partition, offsets in span.items()}, old)
            yield connection, cursor, old

    @contextmanager
    def transaction(self) -> Iterator[tuple[Connection, Cursor]]:
        """Begin a transaction; raises Unavailable, Refused.

        If Behind is raised inside, a second transaction raises the hold.
        """
        try:
            with classified_errors(), self._engine.begin() as connection:
                cursor: Cursor = connection.connection.cursor()  # type: ignore[assignment]
                yield connection, cursor
        except Behind:
            with classified_errors(), self._engine.begin() as connection:
                connection.exec_driver_sql(HOLD, ("Postgres is behind the log",))
            raise


@contextmanager
def trial(connection: Connection) -> Iterator[None]:
    """Undo at the end whatever is done inside, also if it is refused."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def fresh(kept: Sequence[Keep[T]], old: Positions) -> list[Keep[T]]:
    """Return the records that no earlier transaction has folded; `old` is from `moving_on`."""
    return [keep for keep in kept if keep.record.offset >= old[keep.record.partition]]


def positions_of(partitions: Iterable[Partition], cursor: Cursor) -> dict[Partition, int]:
    """Return each partition's position from the rows that `cursor` has just selected; 0 if none."""
    folded = {(topic_id, number): position for topic_id, number, position in cursor}
    return {each: folded.get((each.topic_id, each.number), 0) for each in partitions}
