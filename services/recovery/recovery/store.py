"""Recovery's SQL for marks, holds and the rows that stood still.

Everything runs on the one connection that holds the leader's lock: who has lost it writes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from psycopg2 import extensions
from sqlalchemy import Connection

from courant import ids, topics
from courant.bulk import ChunkRef
from courant.contracts import Command
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.postgres import jobs
from courant.postgres.database import HOLD, array, classified_errors, hold_after_restart
from courant.postgres.holds import Scope
from courant.postgres.tables import UNDER_WAY
from courant.topics import RECEIPTS, Channel, Lane, Partition, Positions
from recovery.rows import OverdueGroup, OverdueRow

Cursor: TypeAlias = extensions.cursor

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

TIME = "SELECT clock_timestamp()"
# Not one whose time is not after the hold's: it may come from another server's clock.
KEEP_MARK = f"""
    INSERT INTO marks (at, topic_id, family, topic, ends)
    SELECT %(at)s, %(topic_id)s, %(family)s, %(topic)s, %(ends)s::bigint[]
    WHERE NOT EXISTS (SELECT FROM holds WHERE scope = '{Scope.REBUILD}' AND raised_at >= %(at)s)"""
# Marks and a hold of the future: all that is compared with Postgres's clock was before another.
WENT_BACK = f"""
    SELECT FROM marks WHERE at > %(at)s UNION ALL
    SELECT FROM holds WHERE scope = '{Scope.REBUILD}' AND raised_at > %(at)s LIMIT 1"""
# The newest mark of which no partition ends beyond its place. The newest are looked at first, so
# that an idle topic costs one; a topic made anew has another id, and its old marks say nothing.
PASSED = """
    SELECT topic, at FROM unnest(%(wanted)s::text[]) AS topic,
    LATERAL (SELECT m.at FROM marks m WHERE m.topic = topic.topic AND NOT EXISTS (
            SELECT FROM unnest(m.ends) WITH ORDINALITY AS e(ends, number)
            LEFT JOIN {places} ON p.topic_id = m.topic_id AND p.partition = e.number - 1
            WHERE e.ends > coalesce(p.next, 0))
        ORDER BY m.at DESC LIMIT 1) AS newest"""
FOLDED = PASSED.format(places="positions AS p")
COMMITTED = PASSED.format(
    places="unnest(%(ids)s::uuid[], %(numbers)s::int[], %(nexts)s::bigint[])"
    " AS p(topic_id, partition, next)"
)
GROWTH = """
    SELECT at, (SELECT coalesce(sum(e), 0) FROM unnest(ends) AS e)::bigint FROM marks
    WHERE family = %s AND at >= %s ORDER BY at"""

# By then each claim that Postgres may have lost has its `started` folded, or never will.
LIFT = f"""
    UPDATE holds SET stands = false
    WHERE scope = '{Scope.REBUILD}' AND stands AND raised_at + %s < %s"""
# By then each wish is folded that was written before.
LIFT_JOBS = f"""
    UPDATE holds SET stands = false
    WHERE scope = '{Scope.JOBS}' AND stands AND raised_at < %s"""
STANDS = f"SELECT coalesce(bool_or(scope = '{Scope.REBUILD}'), false) FROM holds WHERE stands"
STOPPED = f"SELECT FROM holds WHERE stands AND scope IN ('{Scope.REBUILD}', '{Scope.ALL}')"

COLUMNS = "n.id, n.attempt, n.channel, n.lane, n.template_id, n.template_version"
TAKE = "FOR UPDATE OF n SKIP LOCKED"
# The two parts of what is created, each with an index of its own: what waits for a time, and what
# waits for its turn. A backlog of one costs the search of the other nothing.
DUE = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.issued_at < n.not_before AND n.not_before <= now()
    ORDER BY n.not_before LIMIT %(limit)s {TAKE}"""
UNCLAIMED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.channel = %(channel)s AND n.lane = %(lane)s
        AND coalesce(n.not_before <= n.issued_at, true) AND n.issued_at < %(before)s
        AND {jobs.sql_job_runs("n.job_id")}
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
# What waits for a time is found once that has come, and its order was passed over by a claim. What
# is still there after four days has expired.
CANCELLED = f"""
    SELECT {COLUMNS} FROM notifications n JOIN wishes w ON w.job_id = n.job_id
    WHERE w.wish = '{Command.CANCELLED}' AND w.at > now() - interval '4 days'
        AND n.state = '{State.CREATED}' AND n.channel = ANY(%(channels)s) AND n.lane = '{Lane.BULK}'
        AND coalesce(n.not_before <= n.issued_at, true) AND n.issued_at < %(delivery)s
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
UNSAVED = f"""
    SELECT j.id, c.upload_id, c.number, c.first, c.rows FROM chunks c JOIN jobs j USING (upload_id)
    WHERE {UNDER_WAY} AND c.saved_at IS NULL
        AND c.issued_at < %(before)s - least(2 ^ (c.orders - 1) - 1, 60) * interval '1 minute'
        AND {jobs.sql_unless_commanded("j.id", Command.CANCELLED)}
    ORDER BY c.issued_at LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED"""
# A row's id bears its job's day, and rows of days long ago are refused.
OUTLIVED = f"""
    SELECT j.id FROM jobs j
    WHERE j.finished_at IS NULL AND j.accepted_at < now() - %(age)s
        AND {jobs.sql_unless_commanded("j.id", Command.CANCELLED)}
    ORDER BY j.accepted_at LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED"""
# With its id and its attempt: calls of earlier attempts say nothing.
IN_CALL = """
    EXISTS (SELECT FROM calls c, unnest(c.notifications, c.attempts) AS e(id, attempt)
        WHERE c.notifications @> ARRAY[n.id] AND e.id = n.id AND e.attempt = n.attempt)"""
# What was decided before must be folded before anything is decided again: `issued_at < delivery`.
CLAIMED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CLAIMED}' AND n.lease_until < %(before)s
        AND n.issued_at < %(delivery)s AND {{which}} {IN_CALL}
    ORDER BY n.lease_until LIMIT %(limit)s {TAKE}"""
UNSTARTED, UNRESOLVED = CLAIMED.format(which="NOT"), CLAIMED.format(which="")
UNANSWERED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.SENDING}' AND n.state_at < %(before)s AND n.issued_at < %(delivery)s
    ORDER BY n.state_at LIMIT %(limit)s {TAKE}"""
# An id is not younger than its acceptance, so that the days of later ids are passed over.
SINCE = "coalesce(n.scheduled_for, n.accepted_at)"
EXPIRED = f"""
    SELECT {COLUMNS} FROM notifications n
    LEFT JOIN unnest(%(templates)s::uuid[], %(versions)s::int[], %(hours)s::int[])
        AS s(template_id, template_version, hours) USING (template_id, template_version)
    CROSS JOIN LATERAL (
        SELECT now() - coalesce(make_interval(hours => s.hours), %(usual)s)) AS over(before)
    WHERE n.state = '{State.CREATED}' AND n.issued_at < %(delivery)s
        AND {jobs.sql_unless_commanded("n.job_id", Command.PAUSED)}
        AND {SINCE} < over.before
        AND NOT EXISTS (SELECT FROM wishes w WHERE w.job_id = n.job_id
            AND w.wish = '{Command.RESUMED}' AND w.wished_at >= over.before)
        AND n.id < %(youngest)s
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
ISSUED = """
    UPDATE notifications SET issued_at = clock_timestamp() WHERE id = ANY(%s::uuid[])"""


class PostgresStore:
    """The store on the leader's connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take_mark(self, ends: Callable[[], Positions]) -> None:
        """Read the time, then ask how far the topics are written, and keep both.

        In one transaction, so on one server: a pooler changes it only between two.
        """
        with self.transaction() as cursor:
            cursor.execute(TIME)
            [(at,)] = cursor.fetchall()
            found = ends()
            hold_after_restart(cursor)
            cursor.execute(WENT_BACK, {"at": at})
            if cursor.rowcount:
                cursor.execute(HOLD, ["Postgres's clock went back"])
            for (topic, topic_id), numbers in by_topic(found).items():
                family = topics.family(topic)
                columns = {"at": at, "topic_id": topic_id, "topic": topic, "family": family}
                cursor.execute(KEEP_MARK, {**columns, "ends": numbers})

    def lift(self, patience: timedelta) -> bool:
        """Lift the hold that was raised after a rebuild if it is over; tell whether it stands."""
        with self.transaction() as cursor:
            hold_after_restart(cursor)
            passed = PostgresRows(cursor).passed((topics.DELIVERY.name, topics.JOBS.name))
            if delivery := passed.get(topics.DELIVERY.name):
                cursor.execute(LIFT, [patience, delivery])
            if jobs_passed := passed.get(topics.JOBS.name):
                cursor.execute(LIFT_JOBS, [jobs_passed])
            cursor.execute(STANDS)
            [(stands,)] = cursor.fetchall()
        return bool(stands)

    def ages(self, wanted: Sequence[str], places: Positions | None = None) -> Mapping[str, float]:
        """Tell for each topic how many seconds ago that was before which all is handled."""
        with self.transaction() as cursor:
            passed = PostgresRows(cursor).passed(wanted, places)
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
        if stopped:  # after the commit: what was recognised just now has raised the hold
            raise Unavailable("on hold")

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Begin a transaction; raises Unavailable."""
        # SQLAlchemy would put a new connection in a dead one's place: without the lock.
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
    """A transaction's hold on rows that stood still."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def passed(
        self, wanted: Sequence[str], places: Positions | None = None
    ) -> Mapping[str, datetime]:
        values: dict[str, Any] = {"wanted": list(wanted)}
        if places is not None:
            values["ids"] = [each.topic_id for each in places]
            values["numbers"] = [each.number for each in places]
            values["nexts"] = list(places.values())
        self._cursor.execute(FOLDED if places is None else COMMITTED, values)
        return dict(self._cursor.fetchall())

    def growth(self, since: datetime) -> Sequence[tuple[datetime, int]]:
        self._cursor.execute(GROWTH, [RECEIPTS.name, since])
        return self._cursor.fetchall()

    def due(self, limit: int) -> list[OverdueRow]:
        return self._rows(DUE, limit=limit)

    def unclaimed(
        self, channel: Channel, lane: Lane, before: datetime, limit: int
    ) -> list[OverdueRow]:
        return self._rows(UNCLAIMED, channel=channel, lane=lane, before=before, limit=limit)

    def unstarted(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNSTARTED, before=delivery, delivery=delivery, limit=limit)

    def unresolved(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNRESOLVED, before=before, delivery=delivery, limit=limit)

    def unanswered(self, before: datetime, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(UNANSWERED, before=before, delivery=delivery, limit=limit)

    def expired(
        self, usual: timedelta, shelves: Sequence[OverdueGroup], delivery: datetime, limit: int
    ) -> list[OverdueRow]:
        least = min([usual, *(timedelta(hours=each.hours) for each in shelves)])
        return self._rows(
            EXPIRED,
            templates=[each.template_id for each in shelves],
            versions=[each.template_version for each in shelves],
            hours=[each.hours for each in shelves],
            usual=usual,
            youngest=ids.first_of(ids.day_at(delivery - least) + 1),
            delivery=delivery,
            limit=limit,
        )

    def cancelled(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(CANCELLED, channels=[*Channel], delivery=delivery, limit=limit)

    def issued(self, rows: Sequence[OverdueRow]) -> None:
        self._cursor.execute(ISSUED, [array(each.id for each in rows)])

    def incomplete(self, before: datetime, limit: int) -> list[ChunkRef]:
        self._cursor.execute(UNSAVED, {"before": before, "limit": limit})
        places = [ChunkRef(*row) for row in self._cursor]
        counted = list(zip(places, jobs.count(self._cursor, places), strict=True))
        whole = [place for place, stored in counted if stored.there == place.rows]
        jobs.note_saved(self._cursor, whole)
        return [place for place, stored in counted if stored.there < place.rows]

    def ordered(self, chunks: Sequence[ChunkRef]) -> None:
        jobs.note_ordered(self._cursor, chunks)

    def outlived(self, age: timedelta, limit: int) -> list[UUID]:
        self._cursor.execute(OUTLIVED, {"age": age, "limit": limit})
        return [id for (id,) in self._cursor]

    def run(self, sql: str, **values: Any) -> int:
        """Run a statement; tell how many rows it was about."""
        self._cursor.execute(sql, values)
        return self._cursor.rowcount

    def fetch(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query."""
        self._cursor.execute(sql, values)
        return self._cursor.fetchall()

    def _rows(self, sql: str, **values: Any) -> list[OverdueRow]:
        self._cursor.execute(sql, values)
        return [
            OverdueRow(id, attempt, Channel(channel), Lane(lane), *template)
            for id, attempt, channel, lane, *template in self._cursor
        ]


def by_topic(ends: Positions) -> dict[tuple[str, UUID], list[int]]:
    """Give each topic's ends by partition, from 0."""
    found: dict[tuple[str, UUID], list[int]] = defaultdict(list)
    for each in sorted(ends, key=by_number):
        found[each.topic, each.topic_id].append(ends[each])
    return found


def by_number(partition: Partition) -> int:
    """Sort partitions by their number."""
    return partition.number
