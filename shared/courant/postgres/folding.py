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
        """Raise Behind, and the hold with it, if Postgres has not folded up to these positions."""
        with self.transaction() as (_, cursor):
            hold_after_restart(cursor)
            cursor.execute(POSITIONS, [[each.topic_id for each in positions]])
            require(positions, positions_of(positions, cursor))

    def skip(self, starts: Positions) -> None:
        """Move the positions on to where the log begins, because earlier records have left it."""
        with self.transaction() as (_, cursor):
            for each, start in starts.items():
                place = {"topic_id": each.topic_id, "number": each.number, "next": start}
                cursor.execute(SKIP, place)

    @contextmanager
    def moving_on(self, span: Span) -> Iterator[tuple[Connection, Cursor, Positions]]:
        """Begin a transaction that moves the positions past `span`; yields the old positions.

        Raises Behind, and the hold, if Postgres lacks records from before `span`.
        """
        with self.transaction() as (connection, cursor):
            hold_after_restart(cursor)
            columns = {
                "topics": [each.topic_id for each in span],
                "numbers": [each.number for each in span],
                "ends": [offsets.stop for offsets in span.values()],
            }
            cursor.execute(MOVE_ON, columns)
            places = positions_of(span, cursor)
            require({each: offsets.start for each, offsets in span.items()}, places)
            yield connection, cursor, places

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


def fresh(kept: Sequence[Keep[T]], places: Positions) -> list[Keep[T]]:
    """Return the records that no earlier transaction has folded."""
    return [each for each in kept if each.record.offset >= places[each.record.partition]]


def positions_of(partitions: Iterable[Partition], cursor: Cursor) -> dict[Partition, int]:
    """Return how far each partition is folded, from the rows that `cursor` has just selected."""
    found = {(topic_id, number): place for topic_id, number, place in cursor}
    return {each: found.get((each.topic_id, each.number), 0) for each in partitions}
