"""Recovery's SQL for marks, holds and overdue rows.

Everything runs on a connection that holds a lock, the leader's or that of marks, so that a process
that has lost the lock writes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from psycopg2 import extensions
from sqlalchemy import Connection

from courant import topics
from courant.bulk import ChunkRef
from courant.errors import Unavailable
from courant.postgres import jobs
from courant.postgres.database import HOLD, array, classified_errors, hold_after_restart
from courant.postgres.holds import Scope
from courant.topics import RECEIPTS, Channel, Lane, Positions, by_topic
from recovery.overdue import (
    CANCELLED,
    DUE,
    EXPIRED,
    ISSUED,
    OUTLIVED,
    THESE,
    UNANSWERED,
    UNCLAIMED,
    UNCLAIMED_OF_JOBS,
    UNRESOLVED,
    UNSAVED,
    UNSTARTED,
)
from recovery.rows import FIRST_PLACE, OverdueRow, Place, WaitLimit

Cursor: TypeAlias = extensions.cursor

# ruff: noqa: S608  (all SQL that is put together here is ours)

TIME = "SELECT clock_timestamp()"
FOLDED_UP_TO = "SELECT topic_id, partition, next FROM positions"
# Keeps no mark whose time is not after the hold's, because it may come from another server's clock.
KEEP_MARK = f"""
    INSERT INTO marks (at, topic_id, family, topic, ends)
    SELECT %(at)s, %(topic_id)s, %(family)s, %(topic)s, %(ends)s::bigint[]
    WHERE NOT EXISTS (SELECT FROM holds WHERE scope = '{Scope.REBUILD}' AND raised_at >= %(at)s)"""
# Finds marks and a hold of the future. They prove that Postgres's clock went back, so that no time
# of theirs can be compared with it.
WENT_BACK = f"""
    SELECT FROM marks WHERE at > %(at)s UNION ALL
    SELECT FROM holds WHERE scope = '{Scope.REBUILD}' AND raised_at > %(at)s LIMIT 1"""
# The newest mark at which no partition ended beyond its position. The newest marks are looked at
# first, so that an idle topic costs one. A recreated topic has another id, so that its old marks
# prove nothing.
PASSED = """
    SELECT topic, at FROM unnest(%(topics)s::text[]) AS topic,
    LATERAL (SELECT m.at FROM marks m WHERE m.topic = topic.topic AND NOT EXISTS (
            SELECT FROM unnest(m.ends) WITH ORDINALITY AS e(ends, number)
            LEFT JOIN {positions} ON p.topic_id = m.topic_id AND p.partition = e.number - 1
            WHERE e.ends > coalesce(p.next, 0))
        ORDER BY m.at DESC LIMIT 1) AS newest"""
# What the saver set aside is not folded, though its position is past it.
FOLDED = PASSED.format(
    positions="""(SELECT q.topic_id, q.partition, least(q.next, (
            SELECT min(a."offset") FROM aside a
            WHERE a.topic_id = q.topic_id AND a.partition = q.partition)) AS next
        FROM positions q) AS p"""
)
COMMITTED = PASSED.format(
    positions="unnest(%(ids)s::uuid[], %(numbers)s::int[], %(nexts)s::bigint[])"
    " AS p(topic_id, partition, next)"
)
GROWTH = """
    SELECT at, (SELECT coalesce(sum(e), 0) FROM unnest(ends) AS e)::bigint FROM marks
    WHERE family = %s AND at >= %s ORDER BY at"""

# By then, the `started` of each claim that Postgres may have lost is folded, or was never written.
LIFT = f"""
    UPDATE holds SET stands = false
    WHERE scope = '{Scope.REBUILD}' AND stands AND raised_at + %s < %s"""
# By then, each command to a job that was written before the hold is folded.
LIFT_JOBS = f"""
    UPDATE holds SET stands = false
    WHERE scope = '{Scope.JOBS}' AND stands AND raised_at < %s"""
STANDS = f"SELECT coalesce(bool_or(scope = '{Scope.REBUILD}'), false) FROM holds WHERE stands"
LOOKS = 5
"""How many rows a walk looks at for each row that it may return."""
STOPPED = f"SELECT FROM holds WHERE stands AND scope IN ('{Scope.REBUILD}', '{Scope.ALL}')"


class PostgresStore:
    """`sweeps.Store` and `marks.Store` on the leader's connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take_mark(self, ends: Callable[[], Positions]) -> None:
        """Read the time, then the ends of the topics, and keep both.

        All of it runs in one transaction, and so on one server: a pooler changes servers only
        between transactions.
        """
        with self.transaction() as cursor:
            cursor.execute(TIME)
            [(at,)] = cursor.fetchall()
            cursor.execute(FOLDED_UP_TO)
            folded = {(topic_id, number): next for topic_id, number, next in cursor}
            positions = ends()
            hold_after_restart(cursor)
            # The savers notice it too, but they may be down. Until they have set their positions
            # back, a mark would seem to be passed although nobody has read what is before it.
            if any(
                folded.get((each.topic_id, each.number), 0) > positions[each] for each in positions
            ):
                cursor.execute(HOLD, ["the log is shorter than Postgres's position in it"])
                return
            cursor.execute(WENT_BACK, {"at": at})
            if cursor.rowcount:
                cursor.execute(HOLD, ["Postgres's clock went back"])
            for (topic, topic_id), numbers in by_topic(positions).items():
                family = topics.family(topic)
                columns = {"at": at, "topic_id": topic_id, "topic": topic, "family": family}
                cursor.execute(KEEP_MARK, {**columns, "ends": numbers})

    def lift(self, after: timedelta) -> bool:
        """Lift the holds that a restart of Postgres raised, as `marks.Store.lift` says."""
        with self.transaction() as cursor:
            hold_after_restart(cursor)
            passed = PostgresRows(cursor).passed((topics.DELIVERY.name, topics.JOBS.name))
            if delivery := passed.get(topics.DELIVERY.name):
                cursor.execute(LIFT, [after, delivery])
            if jobs_passed := passed.get(topics.JOBS.name):
                cursor.execute(LIFT_JOBS, [jobs_passed])
            cursor.execute(STANDS)
            [(stands,)] = cursor.fetchall()
        return bool(stands)

    def on_hold(self) -> bool:
        """Return whether a hold stops all sweeps; raises Unavailable."""
        with self.transaction() as cursor:
            hold_after_restart(cursor)
            cursor.execute(STOPPED)
            return bool(cursor.rowcount)

    def ages(
        self, topics: Sequence[str], positions: Positions | None = None
    ) -> Mapping[str, float]:
        """Return for each topic the age in seconds of the newest mark that is passed."""
        with self.transaction() as cursor:
            passed = PostgresRows(cursor).passed(topics, positions)
            cursor.execute(TIME)
            [(now,)] = cursor.fetchall()
        return {topic: (now - at).total_seconds() for topic, at in passed.items()}

    @contextmanager
    def sweeping(self) -> Iterator["PostgresRows"]:
        with self.transaction() as cursor:
            hold_after_restart(cursor)
            cursor.execute(STOPPED)
            stopped = bool(cursor.rowcount)
            if not stopped:
                yield PostgresRows(cursor)
        if stopped:  # raised after the commit, which keeps a hold that was raised just now
            raise Unavailable("on hold")

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Begin a transaction; raises Unavailable."""
        # SQLAlchemy would replace a dead connection by a new one, which does not hold the lock.
        if self._connection.invalidated:
            raise Unavailable("the leader's connection is gone")
        with (
            classified_errors(),
            self._connection.begin(),
            closing(self._connection.connection.cursor()) as cursor,
        ):
            assert isinstance(cursor, Cursor)
            yield cursor


class PostgresRows:
    """`sweeps.Rows` in one transaction, and any SQL of the other tasks."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def passed(
        self, topics: Sequence[str], positions: Positions | None = None
    ) -> Mapping[str, datetime]:
        values: dict[str, Any] = {"topics": list(topics)}
        if positions is not None:
            values["ids"] = [partition.topic_id for partition in positions]
            values["numbers"] = [partition.number for partition in positions]
            values["nexts"] = list(positions.values())
        self._cursor.execute(FOLDED if positions is None else COMMITTED, values)
        return dict(self._cursor.fetchall())

    def growth(self, since: datetime) -> Sequence[tuple[datetime, int]]:
        self._cursor.execute(GROWTH, [RECEIPTS.name, since])
        return self._cursor.fetchall()

    def due(self, limit: int) -> list[OverdueRow]:
        return self._rows(DUE, limit=limit)

    def unclaimed(
        self, channel: Channel, lane: Lane, before: datetime, limit: int
    ) -> list[OverdueRow]:
        rows = self._rows(UNCLAIMED, channel=channel, lane=lane, before=before, limit=limit)
        left = limit - len(rows)
        if lane is Lane.BULK and left:
            rows += self._rows(UNCLAIMED_OF_JOBS, channel=channel, before=before, limit=left)
        return rows

    def unstarted(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNSTARTED, before=delivery, delivery=delivery, limit=limit)

    def unresolved(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNRESOLVED, before=before, delivery=delivery, limit=limit)

    def unanswered(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNANSWERED, before=before, delivery=delivery, limit=limit)

    def expired(
        self,
        usual: timedelta,
        shorter: Sequence[WaitLimit],
        delivery: datetime,
        limit: int,
        after: Place,
    ) -> tuple[list[OverdueRow], Place]:
        looks = LOOKS * limit
        values = {
            "templates": [version.template_id for version in shorter],
            "versions": [version.template_version for version in shorter],
            "hours": [version.hours for version in shorter],
            "usual": usual,
            "least": min([usual, *(timedelta(hours=version.hours) for version in shorter)]),
            "delivery": delivery,
            "since": after.since,
            "id": after.id,
            "looks": looks,
        }
        self._cursor.execute(EXPIRED, values)
        looked = self._cursor.fetchall()
        late = [(id, since) for id, since, is_late in looked if is_late][:limit]
        rows = self._these([id for id, _ in late], delivery)
        if len(late) == limit:
            [id, since] = late[-1]
        elif len(looked) == looks:
            [id, since, _] = looked[-1]
        else:
            return rows, FIRST_PLACE
        return rows, Place(since, id)

    def _these(self, ids: Sequence[UUID], delivery: datetime) -> list[OverdueRow]:
        # Locked by their ids: a lock in the walk itself would lock every row that it looks at.
        return self._rows(THESE, ids=array(ids), delivery=delivery) if ids else []

    def cancelled(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(CANCELLED, channel="", before=delivery, limit=limit)

    def issued(self, rows: Sequence[OverdueRow]) -> None:
        self._cursor.execute(ISSUED, [array(row.id for row in rows)])

    def incomplete(self, before: datetime, limit: int) -> list[ChunkRef]:
        self._cursor.execute(UNSAVED, {"before": before, "limit": limit})
        chunks = [ChunkRef(*row) for row in self._cursor]
        counted = list(zip(chunks, jobs.count(self._cursor, chunks), strict=True))
        jobs.note_saved(
            self._cursor, [chunk for chunk, stored in counted if stored.there == chunk.rows]
        )
        return [chunk for chunk, stored in counted if stored.there < chunk.rows]

    def ordered(self, chunks: Sequence[ChunkRef]) -> None:
        jobs.note_ordered(self._cursor, chunks)

    def outlived(self, age: timedelta, limit: int) -> list[UUID]:
        self._cursor.execute(OUTLIVED, {"age": age, "limit": limit})
        return [id for (id,) in self._cursor]

    def run(self, sql: str, **values: Any) -> int:
        """Run a statement and return the number of rows that it changed."""
        self._cursor.execute(sql, values)
        return self._cursor.rowcount

    def fetch(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        self._cursor.execute(sql, values)
        return self._cursor.fetchall()

    def _rows(self, sql: str, **values: Any) -> list[OverdueRow]:
        self._cursor.execute(sql, values)
        return [
            OverdueRow(id, attempt, Channel(channel), Lane(lane), *template)
            for id, attempt, channel, lane, *template in self._cursor
        ]
