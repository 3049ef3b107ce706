"""Job-runner's SQL for its rounds: what is out, what is due, what is over."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from courant import jobs
from courant.contracts import Wish
from courant.database import recognise
from courant.folding import Cursor, Folding
from courant.jobs import Place, Stored
from courant.topics import Channel
from job_runner.issue import Out, Waiting

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

TURN = "SELECT pg_try_advisory_xact_lock(hashtext('courant.job-runner'))"
STOPPED = "SELECT FROM holds WHERE stands AND scope IN ('rebuild', 'all', 'lane:bulk')"
JOBS_LOOKED_AT = 20
"""Of each service in a round."""

# Of jobs and services that are stopped nothing moves: they must not hold back the others.
MOVES = f"""
    NOT EXISTS (SELECT FROM wishes w WHERE w.job_id = j.id AND w.wish <> '{Wish.RESUMED}')
    AND NOT EXISTS (SELECT FROM holds h WHERE h.stands
        AND h.scope IN ('service:' || j.service_id, 'channel:' || j.channel))"""
OUT = f"""
    SELECT now(), j.id, c.upload_id, c.number, c.first, c.rows, j.channel, j.service_id, c.issued_at
    FROM chunks c JOIN jobs j USING (upload_id)
    WHERE c.settled_at IS NULL AND c.issued_at IS NOT NULL AND j.finished_at IS NULL AND {MOVES}
    ORDER BY c.issued_at, c.number"""
NOW = "SELECT now()"
SETTLED = """
    UPDATE chunks SET settled_at = clock_timestamp() FROM
        unnest(%(uploads)s::uuid[], %(numbers)s::int[]) AS s(upload_id, number)
    WHERE chunks.upload_id = s.upload_id AND chunks.number = s.number"""
WAITING = f"""
    SELECT id, upload_id, service_id, channel, chunks, digest, started_at IS NOT NULL, left_ FROM (
        SELECT j.*,
            row_number() OVER (PARTITION BY j.service_id ORDER BY j.accepted_at, j.id) AS nth
        FROM jobs j
        WHERE j.finished_at IS NULL AND coalesce(j.scheduled_for <= now(), true) AND {MOVES}
            AND (j.started_at IS NULL OR EXISTS (SELECT FROM chunks c
                WHERE c.upload_id = j.upload_id AND c.issued_at IS NULL))) AS due,
    LATERAL (SELECT count(*) AS left_ FROM chunks c
        WHERE c.upload_id = due.upload_id AND c.issued_at IS NULL) AS l
    WHERE nth <= {JOBS_LOOKED_AT} ORDER BY accepted_at, id"""
FINGERPRINTS = "SELECT fingerprint FROM chunks WHERE upload_id = %s ORDER BY number"
START = "UPDATE jobs SET started_at = clock_timestamp() WHERE id = %s"
UNISSUED = """
    SELECT number FROM chunks WHERE upload_id = %s AND issued_at IS NULL
    ORDER BY number LIMIT %s"""
ISSUED = """
    UPDATE chunks SET issued_at = clock_timestamp() WHERE upload_id = %s AND number = ANY(%s)"""
FINISH = f"""
    UPDATE jobs j SET finished_at = clock_timestamp() WHERE finished_at IS NULL
        AND (EXISTS (SELECT FROM wishes w WHERE w.job_id = j.id AND w.wish = '{Wish.CANCELLED}')
            OR (started_at IS NOT NULL AND NOT EXISTS (SELECT FROM chunks c
                WHERE c.upload_id = j.upload_id AND c.settled_at IS NULL)))"""


class PostgresRounds(Folding):
    """The rounds' store on PostgreSQL."""

    @contextmanager
    def round(self) -> Iterator["PostgresRound | None"]:
        with self.transaction() as (_, cursor):
            cursor.execute(TURN)
            [(ours,)] = cursor.fetchall()
            if ours:
                recognise(cursor)
                cursor.execute(STOPPED)
                ours = not cursor.rowcount
            yield PostgresRound(cursor) if ours else None


class PostgresRound:
    """One round's transaction."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def out(self) -> tuple[datetime, list[Out]]:
        self._cursor.execute(NOW)
        [(now,)] = self._cursor.fetchall()
        self._cursor.execute(OUT)
        return now, [
            Out(Place(*place), Channel(channel), service_id, issued_at)
            for _, *place, channel, service_id, issued_at in self._cursor
        ]

    def count(self, places: Sequence[Place]) -> list[Stored]:
        return jobs.count(self._cursor, places)

    def settle(self, saved: Sequence[Place], settled: Sequence[Place]) -> None:
        if saved:
            jobs.note_saved(self._cursor, saved)
        if settled:
            uploads = [each.upload_id for each in settled]
            numbers = [each.number for each in settled]
            self._cursor.execute(SETTLED, {"uploads": uploads, "numbers": numbers})

    def waiting(self) -> list[Waiting]:
        self._cursor.execute(WAITING)
        return [
            Waiting(id, upload_id, service_id, Channel(channel), chunks, bytes(digest), *rest)
            for id, upload_id, service_id, channel, chunks, digest, *rest in self._cursor
        ]

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        self._cursor.execute(FINGERPRINTS, [upload_id])
        return [bytes(each) for (each,) in self._cursor]

    def start(self, job_id: UUID) -> None:
        self._cursor.execute(START, [job_id])

    def unissued(self, upload_id: UUID, limit: int) -> list[int]:
        self._cursor.execute(UNISSUED, [upload_id, limit])
        return [number for (number,) in self._cursor]

    def issued(self, upload_id: UUID, numbers: Sequence[int]) -> None:
        self._cursor.execute(ISSUED, [upload_id, list(numbers)])

    def finish(self) -> int:
        self._cursor.execute(FINISH)
        return self._cursor.rowcount
