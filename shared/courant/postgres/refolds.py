"""Setting Postgres's positions back after damage inside it, and telling what is then folded again.

A Postgres that is restored from a backup goes back as a whole: its rows and its positions. After
damage inside it, only the positions go back, so most rows have already made the moves that the log
reports again. `refolds` notes for each partition that was set back:
- `below`: every record before this offset was folded before;
- `after_event`: a row whose event `saved` has a higher number has come back since then.

Only rows that came back make the moves of those records. Numbers are compared and not times,
because Postgres's clock may go back, and a row that wrongly counted as old would be sent twice.
"""

from collections.abc import Iterable, Iterator
from uuid import UUID

from sqlalchemy import Connection

from courant.lifecycle import Move
from courant.postgres.database import HOLD, array
from courant.postgres.folding import Cursor
from courant.topics import Partition, Positions

# ruff: noqa: S608  (all SQL that is put together here is ours)

# Locked in the order in which the savers lock them, otherwise the two could deadlock.
LOCK = """
    SELECT topic_id, partition, next FROM positions
    WHERE topic_id = ANY(%s) ORDER BY topic_id, partition FOR UPDATE"""
# A partition that an earlier restore set back may not have reached its `below` again. Rows that
# came back since that restore then still lack some of its records, so its `after_event` stays.
NOTE = """
    INSERT INTO refolds AS r (topic_id, partition, below, after_event)
    VALUES (%(topic_id)s, %(number)s, %(next)s,
        nextval(pg_get_serial_sequence('events', 'number')))
    ON CONFLICT (topic_id, partition) DO UPDATE
    SET below = greatest(r.below, excluded.below),
        after_event = CASE WHEN excluded.below < r.below
            THEN r.after_event ELSE excluded.after_event END"""
SET_BACK = """
    UPDATE positions SET next = %(start)s
    WHERE topic_id = %(topic_id)s AND partition = %(number)s"""
REFOLDS = "SELECT topic_id, partition, below, after_event FROM refolds WHERE topic_id = ANY(%s)"
CAME_BACK = f"""
    SELECT id FROM events
    WHERE id = ANY(%s::uuid[]) AND number > %s AND move = '{Move.SAVED}'"""


def set_back(connection: Connection, starts: Positions, reason: str) -> dict[Partition, int]:
    """Raise the hold and set the positions back to `starts`, never forward.

    Returns how many records of each partition will be folded again. The services that fold notice
    that Postgres is behind, as they do after a backup was restored.
    """
    connection.exec_driver_sql(HOLD, (reason,))
    topic_ids = list({partition.topic_id for partition in starts})
    found = connection.exec_driver_sql(LOCK, (topic_ids,)).all()
    stood = {(topic_id, number): next_ for topic_id, number, next_ in found}
    again = {}
    for partition, start in starts.items():
        next_ = stood.get((partition.topic_id, partition.number), 0)
        if next_ <= start:
            continue
        row = {"topic_id": partition.topic_id, "number": partition.number}
        connection.exec_driver_sql(NOTE, {**row, "next": next_})
        connection.exec_driver_sql(SET_BACK, {**row, "start": start})
        again[partition] = next_ - start
    return again


class Refold:
    """What one transaction of the saver folds again; `positions` are those before it."""

    def __init__(self, cursor: Cursor, positions: Positions) -> None:
        self._cursor = cursor
        cursor.execute(REFOLDS, [[partition.topic_id for partition in positions]])
        under_way = dict(_under_way(cursor, positions))
        self.below: Positions = {each: below for each, (below, _) in under_way.items()}
        # The lowest number errs towards folding again, which changes nothing in the end. Skipping
        # a record that a row lacks would send it twice.
        self._after_event = min((event for _, event in under_way.values()), default=0)

    def stayed(self, ids: set[UUID]) -> set[UUID]:
        """Return the ids of rows that have made the moves of records below `below` already."""
        if not ids:
            return set()
        self._cursor.execute(CAME_BACK, [array(ids), self._after_event])
        return ids - {id for (id,) in self._cursor}


def _under_way(
    rows: Iterable[tuple[UUID, int, int, int]], positions: Positions
) -> Iterator[tuple[Partition, tuple[int, int]]]:
    by_name = {(each.topic_id, each.number): each for each in positions}
    for topic_id, number, below, after_event in rows:
        partition = by_name.get((topic_id, number))
        if partition is not None and positions[partition] < below:
            yield partition, (below, after_event)
