"""Reads jobs from Postgres: jobs, the counts of their rows by state, and the rows themselves.

The rows of a job are one range of the primary key (ids.of_rows), so they need no other index.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, text

from courant import ids
from courant.contracts import Command, KeyType
from courant.lifecycle import State, quoted
from courant.topics import JOBS, Channel
from ingest.callers.auth import Caller
from ingest.jobs.rows import RATE_PERIOD, UNSENT, FirstJob, Job, JobCounts
from ingest.read.pages import WINNER
from ingest.read.store import Missing, Reader

T = TypeVar("T")

READERS = 2
"""Connections for slow queries, so that no read of a notification waits behind them."""
STATEMENT_SECONDS = 60
PAGE_JOBS = 50
CACHED_JOBS_MAX = 1_000
CACHED_SECONDS_MIN = 1.0
CACHED_FACTOR = 10
"""Counts are cached ten times as long as counting took.

So counting one job takes at most a tenth of a reader's time, however often clients ask.
"""

COLUMNS = """j.id, j.upload_id, j.chunks, j.rows, j.key_id, j.key_type, j.template_id,
    j.template_version, j.channel, j.sender_id, j.name, j.accepted_at, j.scheduled_for,
    j.at AS stored_at, j.started_at, j.finished_at,
    w.wish AS command, w.wished_at AS commanded_at, now() AS now,
    (SELECT count(*) FROM chunks c WHERE c.upload_id = j.upload_id) AS chunks_stored"""
TABLES = "jobs j LEFT JOIN wishes w ON w.job_id = j.id"
OWN_JOBS = f"""
    SELECT {COLUMNS} FROM {TABLES}
    WHERE j.service_id = :service_id AND j.key_type = :key_type"""  # noqa: S608  # ours
FIRST_JOB = text(f"""
    SELECT {COLUMNS}, i.body_hash FROM {TABLES} JOIN idempotency i ON i.id = j.id
    WHERE i.service_id = :service_id AND i.key_hash = :key_hash
        AND i.accepted_at > now() - interval '48 h'""")  # noqa: S608  # ours
JOB = text(f"{OWN_JOBS} AND j.id = {WINNER}")
# Ids do not sort by time: an id made from an Idempotency-Key holds only the day of its job.
NEWEST_FIRST = f"ORDER BY j.accepted_at DESC, j.id DESC LIMIT {PAGE_JOBS}"
NEWEST = text(f"{OWN_JOBS} {NEWEST_FIRST}")
OLDER = text(f"""{OWN_JOBS} AND (j.accepted_at, j.id) < ((
        SELECT o.accepted_at FROM jobs o
        WHERE o.id = {WINNER} AND o.service_id = :service_id AND o.key_type = :key_type
    ), {WINNER}) {NEWEST_FIRST}""")  # noqa: S608  # ours
ROWS = "FROM notifications WHERE id BETWEEN :low AND :high AND job_id = :job"
STATES = text(f"SELECT state, count(*) {ROWS} GROUP BY state")
HAS_UNSENT = text(f"SELECT EXISTS (SELECT {ROWS} AND state IN ({quoted(UNSENT)}))")
SETTLED = text("""
    SELECT coalesce(sum(rows) FILTER (WHERE settled_at IS NOT NULL), 0) AS settled,
        coalesce(sum(rows) FILTER (WHERE settled_at > now() - :period), 0) AS recently,
        now() AS counted_at
    FROM chunks WHERE upload_id = :upload_id""")
STORED_ROWS = text(f"""
    SELECT job_row, id, sealed, reference, state, state_at, sent_at, reason, response {ROWS}""")
CHUNKS_OF_ROWS = text("""
    SELECT number, first, sealed FROM chunks
    WHERE upload_id = :upload_id AND first <= :last AND first + rows > :first ORDER BY number""")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of a job that is stored as a notification."""

    job_row: int
    id: UUID
    sealed: bytes
    reference: str | None
    state: State
    state_at: datetime
    sent_at: datetime | None
    reason: str | None
    response: str | None


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk of a job. Its rows may not be notifications yet."""

    number: int
    first: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows `first` to `last` of a job: the stored ones, and the chunks that hold the others."""

    first: int
    last: int
    rows: Sequence[StoredRow]
    chunks: Sequence[StoredChunk]


class JobStore:
    """Reads jobs. Slow queries run on a reader of their own."""

    def __init__(self, reader: Reader, slow: Reader) -> None:
        self._reader = reader
        self._slow = slow
        self._counts = CountCache(self._count)
        self._sent: dict[UUID, None] = {}  # jobs without rows to send, the oldest first

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        """Return a caller's job. Waits a moment for one that may be on its way.

        Raises Unavailable.
        """
        values = {**_own(caller), "id": id}

        def find(connection: Connection) -> Job | None:
            row = connection.execute(JOB, values).first()
            return _as_job(row._asdict()) if row else None

        return await self._reader.find_or_wait(caller.service.id, id, JOBS, find)

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        """Return the first job with an Idempotency-Key. None may also mean no answer in time."""
        values = {"service_id": service_id, "key_hash": key_hash}

        def find(connection: Connection) -> FirstJob | None:
            row = connection.execute(FIRST_JOB, values).first()
            if row is None:
                return None
            columns = row._asdict()
            body_hash = bytes(columns.pop("body_hash"))
            return FirstJob(_as_job(columns), body_hash)

        return await self._reader.ask_briefly(find)

    async def page(self, caller: Caller, older_than: UUID | None) -> list[Job]:
        """Return a page of a caller's jobs, newest first. Raises Unavailable."""
        sql = OLDER if older_than else NEWEST
        values = {**_own(caller), "id": older_than}
        return await self._reader.ask(
            lambda c: [_as_job(row._asdict()) for row in c.execute(sql, values)]
        )

    async def count_rows(self, job: Job) -> JobCounts:
        """Return the counts of a job's rows, which may be cached. Raises Unavailable."""
        return await self._counts.count(job)

    async def nothing_to_send(self, job: Job) -> bool:
        """Return whether no stored row of a job waits to be sent. Raises Unavailable.

        Once this is true it stays so here: a row that is sent again later does not reopen its job.
        """
        if job.id in self._sent:
            return True
        values = _range(job, 1, job.rows)
        has_unsent = await self._slow.ask(
            lambda c: bool(c.execute(HAS_UNSENT, values).scalar_one())
        )
        if not has_unsent:
            if len(self._sent) >= CACHED_JOBS_MAX:
                del self._sent[next(iter(self._sent))]
            self._sent[job.id] = None
        return not has_unsent

    async def read_rows(self, job: Job, first: int, last: int, write: Callable[[RowRange], T]) -> T:
        """Read rows of a job and return `write` of them, which runs in the reader's thread.

        Raises Unavailable.
        """

        def read(connection: Connection) -> T:
            stored = connection.execute(STORED_ROWS, _range(job, first, last))
            rows = [_as_stored_row(row) for row in stored]
            chunks: list[StoredChunk] = []
            # A row that is stored between the two queries is still shown from its chunk.
            if len(rows) <= last - first:
                values = {"upload_id": job.upload_id, "first": first, "last": last}
                chunks = [
                    StoredChunk(chunk.number, chunk.first, bytes(chunk.sealed))
                    for chunk in connection.execute(CHUNKS_OF_ROWS, values)
                ]
            return write(RowRange(first, last, rows, chunks))

        return await self._slow.ask(read)

    async def _count(self, job: Job) -> JobCounts:
        def ask(connection: Connection) -> JobCounts:
            states = connection.execute(STATES, _range(job, 1, job.rows)).all()
            values = {"upload_id": job.upload_id, "period": RATE_PERIOD}
            chunks = connection.execute(SETTLED, values).one()
            counts = {State(state): int(count) for state, count in states}
            return JobCounts(counts, int(chunks.settled), int(chunks.recently), chunks.counted_at)

        return await self._slow.ask(ask)


class CountCache:
    """Caches counts. Requests that come while a job is counted wait for that count."""

    def __init__(
        self,
        count: Callable[[Job], Awaitable[JobCounts]],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._seconds = seconds
        self._cached: dict[UUID, tuple[asyncio.Task[JobCounts], float]] = {}

    async def count(self, job: Job) -> JobCounts:
        """Return a job's counts, no older than CACHED_FACTOR allows. Raises what `count` raises."""
        task, until = self._cached.get(job.id, (None, 0.0))
        if task is None or self._seconds() >= until:
            task = asyncio.create_task(self._count_and_cache(job))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._cache(job.id, task, float("inf"))
        # A client that disconnects must not cancel the count that others wait for.
        return await asyncio.shield(task)

    async def _count_and_cache(self, job: Job) -> JobCounts:
        began, task = self._seconds(), asyncio.current_task()
        assert task
        try:
            counts = await self._count(job)
        except BaseException:
            self._cached.pop(job.id, None)
            raise
        now = self._seconds()
        self._cache(job.id, task, now + max(CACHED_SECONDS_MIN, CACHED_FACTOR * (now - began)))
        return counts

    def _cache(self, id: UUID, task: asyncio.Task[JobCounts], until: float) -> None:
        self._cached.pop(id, None)
        if len(self._cached) >= CACHED_JOBS_MAX:
            del self._cached[next(iter(self._cached))]
        self._cached[id] = task, until


def _own(caller: Caller) -> dict[str, object]:
    return {"service_id": caller.service.id, "key_type": caller.key.type}


def _range(job: Job, first: int, last: int) -> dict[str, object]:
    low, high = ids.of_rows(job.id, first, last)
    return {"low": low, "high": high, "job": job.id}


def _as_job(columns: Mapping[str, Any]) -> Job:
    return Job(
        **{
            **columns,
            "key_type": KeyType(columns["key_type"]),
            "channel": Channel(columns["channel"]),
            "name": bytes(columns["name"]),
            "command": Command(columns["command"]) if columns["command"] else None,
        }
    )


def _as_stored_row(row: Any) -> StoredRow:
    job_row, id, sealed, reference, state, *rest = row
    return StoredRow(job_row, id, bytes(sealed or b""), reference, State(state), *rest)
