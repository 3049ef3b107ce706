"""Postgres as a fold of the log: the transaction that folds a batch also moves the position on.

A Postgres that lost commits, or was restored from last week's backup, therefore shows what it
lacks. The service that folds reads exactly those records again. And a log that lost records, or was
restored from an older copy, shows it too: new records then have offsets that Postgres knows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

from psycopg2 import extensions
from sqlalchemy import Connection, Engine

from courant.errors import Behind, Shortened, require
from courant.postgres.database import HOLD, classified_errors, hold_after_restart
from courant.records import Keep, Span, require_known, starts_of
from courant.topics import Folded, Partition, Positions

T = TypeVar("T")
Cursor: TypeAlias = extensions.cursor

# Locks the positions, moves them on and returns the old ones, in one statement. It never moves one
# backwards, because a process that was frozen may come late with offsets that others have passed.
# Such a late batch does not set `at` of a position that has none (of a release before): it would be
# older than the records that others folded, and these would look new.
MOVE_ON = """
    INSERT INTO positions AS p (topic_id, partition, next, at, topic)
    SELECT * FROM unnest(%(ids)s::uuid[], %(numbers)s::int[], %(ends)s::bigint[],
        %(times)s::timestamptz[], %(topics)s::text[]) ORDER BY 1, 2
    ON CONFLICT (topic_id, partition) DO UPDATE SET next = greatest(p.next, excluded.next),
        at = CASE WHEN excluded.next >= p.next THEN greatest(p.at, excluded.at) ELSE p.at END,
        topic = excluded.topic
    RETURNING topic_id, partition, coalesce(old.next, 0), old.at, topic"""
# The newest position comes last.
POSITIONS = """
    SELECT topic_id, partition, next, at, topic FROM positions
    WHERE topic_id = ANY(%s::uuid[]) OR topic = ANY(%s) ORDER BY at NULLS FIRST"""
# Only under the topic's own id: a recreated topic has none until it is folded.
OWN_POSITIONS = """
    SELECT topic_id, partition, next FROM positions WHERE topic_id = ANY(%s::uuid[])"""
# Does nothing if the position moved since it was read: another process has cut it, and folds.
CUT = """
    INSERT INTO positions AS p (topic_id, partition, next, at, topic)
    VALUES (%(topic_id)s, %(number)s, %(first)s, %(at)s, %(topic)s)
    ON CONFLICT (topic_id, partition) DO UPDATE SET next = excluded.next
    WHERE p.next = %(next)s AND p.at IS NOT DISTINCT FROM excluded.at"""
SKIP = """
    INSERT INTO positions AS p (topic_id, partition, next)
    VALUES (%(topic_id)s, %(number)s, %(next)s)
    ON CONFLICT (topic_id, partition) DO UPDATE SET next = greatest(p.next, excluded.next)"""


class Folding:
    """The base of every store that folds the log: one transaction a batch, with its position."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def compare(self, positions: Positions) -> Mapping[Partition, Folded]:
        """Return Postgres's positions in these partitions.

        Raises the hold in Postgres, and Behind, if they are before `positions`.
        """
        with self.transaction() as (_, cursor):
            hold_after_restart(cursor)
            ids = [partition.topic_id for partition in positions]
            cursor.execute(POSITIONS, [ids, [partition.topic for partition in positions]])
            folded = folded_of(positions, cursor)
            require(positions, nexts(folded))
        return folded

    def cut(self, shortened: Shortened) -> None:
        """Raise the hold, and set the positions back to where the log's new records begin."""
        with self.transaction() as (_, cursor):
            for partition, first in sorted(shortened.firsts.items()):
                folded = shortened.folded[partition]
                row = {
                    "topic_id": partition.topic_id,
                    "number": partition.number,
                    "topic": partition.topic,
                    "first": first,
                    "next": folded.next,
                    "at": folded.at,
                }
                cursor.execute(CUT, row)
                if cursor.rowcount:
                    self.lost_records(cursor)
                    cursor.execute(HOLD, ["the log is shorter than Postgres's position in it"])

    def lost_records(self, cursor: Cursor) -> None:
        """Record what is in doubt because the log lost records. A store may override this."""

    def skip(self, starts: Positions) -> None:
        """Move the positions on to where the log begins, because earlier records have left it."""
        with self.transaction() as (_, cursor):
            for partition, start in starts.items():
                row = {"topic_id": partition.topic_id, "number": partition.number, "next": start}
                cursor.execute(SKIP, row)

    @contextmanager
    def moving_on(self, span: Span) -> Iterator[tuple[Connection, Cursor, Positions]]:
        """Begin a transaction that moves the positions past `span`; yields the old positions.

        Raises Behind, and the hold, if Postgres lacks records from before `span`, and Shortened if
        a record below its position is a new one.
        """
        with self.transaction() as (connection, cursor):
            hold_after_restart(cursor)
            columns = {
                "ids": [partition.topic_id for partition in span],
                "numbers": [partition.number for partition in span],
                "ends": [stretch.stop for stretch in span.values()],
                "times": [stretch.newest for stretch in span.values()],
                "topics": [partition.topic for partition in span],
            }
            cursor.execute(MOVE_ON, columns)
            old = folded_of(span, cursor)
            require(starts_of(span), nexts(old))
            require_known(span, old)
            yield connection, cursor, nexts(old)

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


def folded_of(partitions: Iterable[Partition], cursor: Cursor) -> dict[Partition, Folded]:
    """Return each partition's position from the rows that `cursor` has just selected; 0 if none.

    A topic none of whose partitions has a row under its id was recreated if it has rows under
    another one. Its position is then the former topic's, so that it looks like a log that lost
    every record.
    """
    rows = [(topic_id, number, Folded(*row), topic) for topic_id, number, *row, topic in cursor]
    by_id = {(topic_id, number): folded for topic_id, number, folded, _ in rows}
    by_name = {(topic, number): folded for _, number, folded, topic in rows}
    known = {topic_id for topic_id, *_ in rows}
    return {
        each: by_id.get((each.topic_id, each.number), Folded(0))
        if each.topic_id in known
        else by_name.get((each.topic, each.number), Folded(0))
        for each in partitions
    }


def nexts(folded: Mapping[Partition, Folded]) -> Positions:
    """Return the positions without their times."""
    return {partition: position.next for partition, position in folded.items()}
