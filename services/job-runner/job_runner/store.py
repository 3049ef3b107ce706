"""Job-runner's SQL for its stages: storing uploads, reading chunks."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from courant import bulk
from courant.bulk import ChunkRef
from courant.contracts import Chunk, Command, JobCommand, JobRecord, KeyType, Seal
from courant.postgres import folding, jobs
from courant.postgres.database import classified_errors
from courant.postgres.folding import Cursor, Folding, trial
from courant.postgres.tables import jobs as table
from courant.records import Keep, Span
from courant.topics import Channel, Positions
from job_runner.rows import Job, StoredChunk

T = TypeVar("T")

# ruff: noqa: S608  (no part of the SQL that is assembled here comes from outside)

STORE_CHUNK = """
    INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
COLUMNS = tuple(name for name in ("id", *Seal.__struct_fields__) if name in table.c)
VALUES = attrgetter(*("job_id" if name == "id" else name for name in COLUMNS))
STORE_JOB = f"""
    INSERT INTO jobs ({", ".join(COLUMNS)}) VALUES ({", ".join(["%s"] * len(COLUMNS))})
    ON CONFLICT DO NOTHING"""
# An Idempotency-Key stands for the first job that came with it.
TAKE_KEY = """
    INSERT INTO idempotency (service_id, key_hash, id, body_hash) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING"""
IS_ALIAS = "SELECT FROM aliases WHERE id = %s"
KEY_OWNER = "SELECT id, body_hash FROM idempotency WHERE service_id = %s AND key_hash = %s"
MAKE_ALIAS = "INSERT INTO aliases (id, winner) VALUES (%s, %s) ON CONFLICT DO NOTHING"
# Cancelled is final. Of the other commands the latest by its time holds, in any order of arrival.
STORE_COMMAND = f"""
    INSERT INTO wishes AS w (job_id, wish, wished_at) VALUES (%s, %s, %s)
    ON CONFLICT (job_id) DO UPDATE
    SET wish = excluded.wish, wished_at = excluded.wished_at, at = now()
    WHERE w.wish <> '{Command.CANCELLED}'
        AND (excluded.wish = '{Command.CANCELLED}' OR excluded.wished_at >= w.wished_at)"""
CHUNK = f"""
    SELECT c.upload_id, c.first, c.rows, c.sealed, j.service_id, j.key_id, j.key_type,
        j.template_id, j.template_version, j.channel, j.sender_id
    FROM jobs j JOIN chunks c USING (upload_id)
    WHERE j.id = %s AND c.number = %s AND c.saved_at IS NULL
        AND {jobs.sql_unless_commanded("j.id", Command.CANCELLED)}"""


class PostgresStore(Folding):
    """The store of the stages on PostgreSQL."""

    @contextmanager
    def fold(self, span: Span) -> Iterator["PostgresFold"]:
        with self.moving_on(span) as (connection, cursor, positions):
            yield PostgresFold(connection, cursor, positions)

    def chunk(self, job_id: UUID, number: int) -> StoredChunk | None:
        with self.transaction() as (_, cursor):
            cursor.execute(CHUNK, [job_id, number])
            found = cursor.fetchone()
            if not found:
                return None
            upload_id, first, rows, sealed, *columns = found
            # Counted so that an order that is read again does not flood the lane with stored rows.
            [stored] = jobs.count(cursor, [ChunkRef(job_id, upload_id, number, first, rows)])
        if stored.there == rows:
            return None
        service_id, key_id, key_type, template_id, version, channel, sender_id = columns
        job = Job(
            job_id,
            service_id,
            key_id,
            KeyType(key_type),
            template_id,
            version,
            Channel(channel),
            sender_id,
        )
        return StoredChunk(job, upload_id, first, bytes(sealed))


class PostgresFold:
    """One transaction of the store; `positions` is how far the log was folded before it."""

    def __init__(self, connection: Connection, cursor: Cursor, positions: Positions) -> None:
        self._connection, self._cursor, self._positions = connection, cursor, positions

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        return folding.fresh(kept, self._positions)

    def store(self, records: Sequence[JobRecord]) -> Sequence[JobRecord]:
        refused: list[JobRecord] = []
        with classified_errors(), self._connection.begin_nested():
            for each in records:
                match each:
                    case Chunk():
                        print_ = bulk.fingerprint(each.sealed)
                        chunk = [each.upload_id, each.number, each.first, each.rows]
                        self._cursor.execute(STORE_CHUNK, [*chunk, print_, each.sealed])
                    case Seal():
                        if not self._seal(each):
                            refused.append(each)
                    case JobCommand():
                        self._cursor.execute(STORE_COMMAND, [each.job_id, each.command, each.at])
        return refused

    def trial(self) -> AbstractContextManager[None]:
        return trial(self._connection)

    def _seal(self, seal: Seal) -> bool:
        """Store the job unless its key stands for another; return false if the bodies differ."""
        if seal.idempotency_key is not None:
            # The alias is looked up first, because a key is deleted after 48 h but the log, which
            # may be read again, is kept for 14 days.
            self._cursor.execute(IS_ALIAS, [seal.job_id])
            if self._cursor.rowcount:
                return True
            key = [seal.service_id, seal.idempotency_key]
            self._cursor.execute(TAKE_KEY, [*key, seal.job_id, seal.body_hash])
            self._cursor.execute(KEY_OWNER, key)
            [(winner, body_hash)] = self._cursor.fetchall()
            if winner != seal.job_id:
                self._cursor.execute(MAKE_ALIAS, [seal.job_id, winner])
            if bytes(body_hash) != seal.body_hash:
                return False
            if winner != seal.job_id:
                return True
        self._cursor.execute(STORE_JOB, VALUES(seal))
        return True
