"""Job-runner's SQL for its rounds: ordered chunks, due jobs, finished jobs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from courant.bulk import ChunkRef, StoredRows
from courant.contracts import Command
from courant.postgres import jobs
from courant.postgres.database import hold_after_restart
from courant.postgres.folding import Cursor, Folding
from courant.postgres.holds import Scope, lane_scope, sql_channel_scope, sql_service_scope
from courant.postgres.tables import UNDER_WAY
from courant.topics import Channel, Lane
from job_runner.rows import OrderedChunk, WaitingJob

# ruff: noqa: S608  (no part of the SQL that is assembled here comes from outside)

TURN = "SELECT pg_try_advisory_xact_lock(hashtext('courant.job-runner'))"
STOPPED = f"""
    SELECT FROM holds WHERE stands AND scope IN
        ('{Scope.REBUILD}', '{Scope.JOBS}', '{Scope.ALL}', '{lane_scope(Lane.BULK)}')"""
JOBS_MAX, CHUNKS_MAX = 5, 200
"""The most jobs of each service in one round, and the most chunks of each job."""

# Nothing of a stopped job, service or channel counts, so that it does not hold back the others.
RUNS = f"""
    {jobs.sql_job_runs("j.id")} AND NOT EXISTS (SELECT FROM holds h WHERE h.stands
        AND h.scope IN ({sql_service_scope("j.service_id")}, {sql_channel_scope("j.channel")}))"""
# Chunks that a sweep ordered again come last, the latest first, so that they hold back no other.
ORDERED = f"""
    SELECT j.id, c.upload_id, c.number, c.first, c.rows, j.channel, j.service_id, c.issued_at,
        c.settled_at IS NULL AND c.orders = 1
    FROM chunks c JOIN jobs j USING (upload_id)
    WHERE {UNDER_WAY} AND j.finished_at IS NULL AND {RUNS}
    ORDER BY c.orders > 1, CASE c.orders WHEN 1 THEN c.issued_at END, c.issued_at DESC, c.number"""
NOW = "SELECT now()"
SETTLED = """
    SELECT j.channel, count(*) FROM chunks c JOIN jobs j USING (upload_id)
    WHERE c.settled_at > now() - make_interval(secs => %s) GROUP BY j.channel"""
WHOLE = "j.chunks <= (SELECT count(*) FROM chunks c WHERE c.upload_id = j.upload_id)"
# After four orders over some minutes it is not the order that was lost, but the chunk's rows.
STUCK = f"""
    SELECT j.id FROM jobs j
    WHERE j.finished_at IS NULL AND coalesce(j.scheduled_for <= now(), true) AND {RUNS}
        AND (j.started_at IS NULL AND j.at < now() - interval '10 s' AND NOT {WHOLE}
            OR j.started_at IS NOT NULL AND EXISTS (SELECT FROM chunks c
                WHERE c.upload_id = j.upload_id AND c.saved_at IS NULL AND c.orders > 4))"""
WAITING = f"""
    SELECT id, upload_id, service_id, channel, chunks, digest, started_at IS NOT NULL, left_ FROM (
        SELECT j.*,
            row_number() OVER (PARTITION BY j.service_id ORDER BY j.accepted_at, j.id) AS nth
        FROM jobs j
        WHERE j.finished_at IS NULL AND coalesce(j.scheduled_for <= now(), true) AND {RUNS}
            AND (j.started_at IS NULL AND {WHOLE}
                OR j.started_at IS NOT NULL AND EXISTS (SELECT FROM chunks c
                WHERE c.upload_id = j.upload_id AND c.issued_at IS NULL))) AS due,
    LATERAL (SELECT count(*) AS left_ FROM (SELECT FROM chunks c
        WHERE c.upload_id = due.upload_id AND c.issued_at IS NULL LIMIT {CHUNKS_MAX}) AS c)
    WHERE nth <= {JOBS_MAX} ORDER BY accepted_at, id"""
FINGERPRINTS = "SELECT fingerprint FROM chunks WHERE upload_id = %s ORDER BY number"
START = "UPDATE jobs SET started_at = clock_timestamp() WHERE id = %s"
UNORDERED = """
    SELECT j.id, upload_id, c.number, c.first, c.rows FROM jobs j JOIN chunks c USING (upload_id)
    WHERE j.id = %s AND c.issued_at IS NULL ORDER BY c.number LIMIT %s"""
FINISH = f"""
    UPDATE jobs j SET finished_at = clock_timestamp() WHERE finished_at IS NULL
        AND (EXISTS (SELECT FROM wishes w WHERE w.job_id = j.id AND w.wish = '{Command.CANCELLED}')
            OR (started_at IS NOT NULL
                AND NOT EXISTS (SELECT FROM chunks c
                    WHERE c.upload_id = j.upload_id AND c.issued_at IS NULL)
                AND NOT EXISTS (SELECT FROM chunks c
                    WHERE c.upload_id = j.upload_id AND {UNDER_WAY})))"""


class PostgresRounds(Folding):
    """The store of the rounds on PostgreSQL."""

    @contextmanager
    def round(self) -> Iterator["PostgresRound | None"]:
        with self.transaction() as (_, cursor):
            cursor.execute(TURN)
            [(ours,)] = cursor.fetchall()
            if ours:
                hold_after_restart(cursor)
                cursor.execute(STOPPED)
                ours = not cursor.rowcount
            yield PostgresRound(cursor) if ours else None


class PostgresRound:
    """One round's transaction on PostgreSQL."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def ordered_chunks(self) -> tuple[datetime, list[OrderedChunk]]:
        self._cursor.execute(NOW)
        [(now,)] = self._cursor.fetchall()
        self._cursor.execute(ORDERED)
        return now, [
            OrderedChunk(ChunkRef(*chunk), Channel(channel), service_id, issued_at, in_lane)
            for *chunk, channel, service_id, issued_at, in_lane in self._cursor
        ]

    def count_rows(self, chunks: Sequence[ChunkRef]) -> list[StoredRows]:
        return jobs.count(self._cursor, chunks)

    def record_settled(self, saved: Sequence[ChunkRef], settled: Sequence[ChunkRef]) -> None:
        jobs.note_saved(self._cursor, saved)
        jobs.note_settled(self._cursor, settled)

    def settled_since(self, seconds: float) -> Mapping[Channel, int]:
        self._cursor.execute(SETTLED, [seconds])
        return {Channel(channel): count for channel, count in self._cursor}

    def stuck_jobs(self) -> list[UUID]:
        self._cursor.execute(STUCK)
        return [id for (id,) in self._cursor]

    def waiting_jobs(self) -> list[WaitingJob]:
        self._cursor.execute(WAITING)
        return [
            WaitingJob(id, upload_id, service_id, Channel(channel), chunks, bytes(digest), *rest)
            for id, upload_id, service_id, channel, chunks, digest, *rest in self._cursor
        ]

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        self._cursor.execute(FINGERPRINTS, [upload_id])
        return [bytes(each) for (each,) in self._cursor]

    def start_job(self, job_id: UUID) -> None:
        self._cursor.execute(START, [job_id])

    def unordered_chunks(self, job_id: UUID, limit: int) -> list[ChunkRef]:
        self._cursor.execute(UNORDERED, [job_id, limit])
        return [ChunkRef(*chunk) for chunk in self._cursor]

    def record_orders(self, chunks: Sequence[ChunkRef]) -> None:
        jobs.note_ordered(self._cursor, chunks)

    def finish_jobs(self) -> int:
        self._cursor.execute(FINISH)
        return self._cursor.rowcount
