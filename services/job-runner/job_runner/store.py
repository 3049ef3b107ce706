"""Job-runner's SQL for its stages: storing uploads, reading chunks."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from courant import bulk
from courant.bulk import ChunkRef
from courant.contracts import Chunk, Command, JobCommand, JobRecord, KeyType, Seal
from courant.idempotency import Holder, Loser
from courant.postgres import folding, jobs, keys
from courant.postgres.database import classified_errors
from courant.postgres.folding import Cursor, Folding, trial
from courant.postgres.tables import JOB_WITH_CONTENT
from courant.postgres.tables import jobs as table
from courant.records import Keep, Span
from courant.topics import Channel, Positions
from job_runner.rows import Job, StoredChunk

T = TypeVar("T")

# ruff: noqa: S608  (no part of the SQL that is assembled here comes from outside)

# A job that was emptied after its retention gets no content back when the log is read again.
STORE_CHUNK = f"""
    INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed)
    SELECT %(upload)s, %(number)s, %(first)s, %(rows)s, %(print)s, %(sealed)s
    WHERE NOT EXISTS (
        SELECT FROM jobs WHERE upload_id = %(upload)s AND NOT ({JOB_WITH_CONTENT}))
    ON CONFLICT DO NOTHING"""
COLUMNS = tuple(name for name in ("id", *Seal.__struct_fields__) if name in table.c)
VALUES = attrgetter(*("job_id" if name == "id" else name for name in COLUMNS))
STORE_JOB = f"""
    INSERT INTO jobs ({", ".join(COLUMNS)}) VALUES ({", ".join(["%s"] * len(COLUMNS))})
    ON CONFLICT DO NOTHING"""
# A seal whose job is stored, or has an alias, is decided already, and is read again.
DECIDED = """
    SELECT FROM jobs WHERE id = %(id)s UNION ALL SELECT FROM aliases WHERE id = %(id)s"""
UNTOUCHED = "started_at IS NULL AND finished_at IS NULL"
MOVABLE = f"SELECT id FROM jobs WHERE id = ANY(%s) AND {UNTOUCHED} ORDER BY id FOR UPDATE"
REMOVE = f"DELETE FROM jobs WHERE id = %s AND {UNTOUCHED}"
STORED_JOB = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE id = %s"
# Cancelled is final. Of the other commands the latest by its time holds, in any order of arrival.
OVERRIDE = f"""
    ON CONFLICT (job_id) DO UPDATE
    SET wish = excluded.wish, wished_at = excluded.wished_at, at = now()
    WHERE w.wish <> '{Command.CANCELLED}'
        AND (excluded.wish = '{Command.CANCELLED}' OR excluded.wished_at >= w.wished_at)"""
# A command to a job that lost its key is a command to the winner.
STORE_COMMAND = f"""
    INSERT INTO wishes AS w (job_id, wish, wished_at)
    VALUES (coalesce((SELECT winner FROM aliases WHERE id = %(id)s), %(id)s), %(wish)s, %(at)s)
    {OVERRIDE}"""
CARRY_COMMAND = f"""
    INSERT INTO wishes AS w (job_id, wish, wished_at)
    SELECT %(winner)s, wish, wished_at FROM wishes WHERE job_id = %(loser)s
    {OVERRIDE}"""
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

    def store(self, records: Sequence[JobRecord]) -> Sequence[Seal]:
        seals: list[Seal] = []
        with classified_errors(), self._connection.begin_nested():
            for each in records:
                match each:
                    case Chunk():
                        self._chunk(each)
                    case Seal():
                        seals += self._seal(each)
                    case JobCommand():
                        self._command(each.job_id, each.command, each.at)
        return seals

    def trial(self) -> AbstractContextManager[None]:
        return trial(self._connection)

    def _chunk(self, chunk: Chunk) -> None:
        values = {
            "upload": chunk.upload_id,
            "number": chunk.number,
            "first": chunk.first,
            "rows": chunk.rows,
            "print": bulk.fingerprint(chunk.sealed),
            "sealed": chunk.sealed,
        }
        self._cursor.execute(STORE_CHUNK, values)

    def _seal(self, seal: Seal) -> list[Seal]:
        """Store the job, unless its key stands for another; return what `store` does."""
        if seal.idempotency_key is None:
            self._cursor.execute(STORE_JOB, VALUES(seal))
            return []
        if seal.instead_of is not None:
            self._prefer(seal, seal.instead_of)
            return []
        self._cursor.execute(DECIDED, {"id": seal.job_id})
        if self._cursor.rowcount:
            return []
        seals: list[Seal] = []
        is_new = True
        for loser in keys.decide(self._cursor, [request(seal)], self._lock_movable):
            lost = loser.id == seal.job_id
            if loser.same_body:
                is_new = is_new and not lost
                self._make_alias(loser)
                if loser.late:
                    seals += self._confirmed(seal, loser)
            else:
                self._command(loser.id, Command.CANCELLED, seal.accepted_at)
                seals += [seal] * lost
        if is_new:
            self._cursor.execute(STORE_JOB, VALUES(seal))
        return seals

    def _prefer(self, seal: Seal, loser: UUID) -> None:
        """Store the job whose seal was written again, and make `loser` its alias."""
        self._cursor.execute(REMOVE, [loser])
        self._cursor.execute(DECIDED, {"id": loser})
        if self._cursor.rowcount:
            return  # it is the alias already; or it has begun and stays
        keys.prefer(self._cursor, request(seal), loser)
        self._cursor.execute(CARRY_COMMAND, {"winner": seal.job_id, "loser": loser})
        self._cursor.execute(STORE_JOB, VALUES(seal))

    def _make_alias(self, loser: Loser) -> None:
        keys.make_alias(self._cursor, loser)
        self._cursor.execute(CARRY_COMMAND, {"winner": loser.winner, "loser": loser.id})
        self._cursor.execute(REMOVE, [loser.id])

    def _confirmed(self, lost: Seal, loser: Loser) -> list[Seal]:
        """Return the seal of the winner, which has the key and the body of the job that lost."""
        self._cursor.execute(STORED_JOB, [loser.winner])
        found = []
        for row in self._cursor:
            stored = dict(zip(COLUMNS, row, strict=True))
            stored |= {name: bytes(stored[name]) for name in ("digest", "name")}
            stored |= {"job_id": stored.pop("id"), "instead_of": loser.id}
            found.append(msgspec.convert({**msgspec.structs.asdict(lost), **stored}, Seal))
        return found

    def _command(self, job_id: UUID, command: Command, at: datetime) -> None:
        self._cursor.execute(STORE_COMMAND, {"id": job_id, "wish": command, "at": at})

    def _lock_movable(self, ids: set[UUID]) -> set[UUID]:
        self._cursor.execute(MOVABLE, [list(ids)])
        return {id for (id,) in self._cursor}


def request(seal: Seal) -> keys.Request:
    """Return a job as a request that its Idempotency-Key may stand for."""
    assert seal.idempotency_key
    holder = Holder(seal.job_id, seal.body_hash or b"", seal.accepted_at, seal.accepted_at)
    return keys.Request(seal.service_id, seal.idempotency_key, holder)
