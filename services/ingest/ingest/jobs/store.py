"""Reading jobs from Postgres: they themselves, their rows' states, and their rows.

Rows of a job are a range of the primary key (ids.of_rows), so that no other index is needed.
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
from ingest.jobs.rows import OPEN, RECENT, FirstJob, Job, JobCounts
from ingest.read.store import WINNER, Missing, Reader

T = TypeVar("T")

READERS = 2  # connections for what takes long, so that no notification waits for it
STATEMENT_SECONDS = 60
PAGE = 50
KEPT_MAX = 1_000  # jobs whose counts are kept
KEPT_SECONDS_MIN = 1.0
KEPT_FACTOR = 10  # counting takes a tenth of a reader's time, however often it is asked for

COLUMNS = """j.id, j.upload_id, j.chunks, j.rows, j.key_id, j.key_type, j.template_id,
    j.template_version, j.channel, j.sender_id, j.name, j.accepted_at, j.scheduled_for, j.at,
    j.started_at, j.finished_at, w.wish AS command, w.wished_at, now() AS now,
    (SELECT count(*) FROM chunks c WHERE c.upload_id = j.upload_id) AS chunks_here"""
TABLES = "jobs j LEFT JOIN wishes w ON w.job_id = j.id"
FOUND = f"""
    SELECT {COLUMNS} FROM {TABLES}
    WHERE j.service_id = :service_id AND j.key_type = :key_type"""  # noqa: S608  # ours
# An Idempotency-Key belongs to the service, whichever type of API key came with it.
FIRST = text(f"""
    SELECT {COLUMNS}, i.body_hash FROM {TABLES} JOIN idempotency i ON i.id = j.id
    WHERE i.service_id = :service_id AND i.key_hash = :key_hash""")  # noqa: S608  # ours
JOB = text(f"{FOUND} AND j.id = {WINNER}")
# An id tells the day of its job, and no more where an Idempotency-Key made it.
NEWEST_FIRST = f"ORDER BY j.accepted_at DESC, j.id DESC LIMIT {PAGE}"
NEWEST = text(f"{FOUND} {NEWEST_FIRST}")
OLDER = text(f"""{FOUND} AND (j.accepted_at, j.id) < ((
        SELECT o.accepted_at FROM jobs o
        WHERE o.id = {WINNER} AND o.service_id = :service_id AND o.key_type = :key_type
    ), {WINNER}) {NEWEST_FIRST}""")  # noqa: S608  # ours
ROWS = "FROM notifications WHERE id BETWEEN :low AND :high AND job_id = :job"
STATES = text(f"SELECT state, count(*) {ROWS} GROUP BY state")
WAITS = text(f"SELECT EXISTS (SELECT {ROWS} AND state IN ({quoted(OPEN)}))")
SETTLED = text("""
    SELECT coalesce(sum(rows) FILTER (WHERE settled_at IS NOT NULL), 0) AS settled,
        coalesce(sum(rows) FILTER (WHERE settled_at > now() - :recent), 0) AS recent, now() AS at
    FROM chunks WHERE upload_id = :upload_id""")
STORED = text(f"""
    SELECT job_row, id, sealed, reference, state, state_at, sent_at, reason, response {ROWS}""")
UNSTORED = text("""
    SELECT number, first, sealed FROM chunks
    WHERE upload_id = :upload_id AND first <= :last AND first + rows > :first ORDER BY number""")


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of a job as a notification."""

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
    """Rows of a job that may not be notifications yet."""

    number: int
    first: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows `first` to `last` of a job: those that are stored, and chunks that have the others."""

    first: int
    last: int
    rows: Sequence[Stored]
    chunks: Sequence[StoredChunk]


class JobStore:
    """Asks Postgres about jobs; what takes long is asked on connections of its own."""

    def __init__(self, reader: Reader, slow: Reader) -> None:
        self._reader = reader
        self._slow = slow
        self._counts = Kept(self._count)
        self._quiet: dict[UUID, None] = {}

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        """Give a caller's job; wait a moment for one on its way. Raises Unavailable."""
        asked = {**_own(caller), "id": id}

        def find(connection: Connection) -> Job | None:
            found = connection.execute(JOB, asked).first()
            return _as_job(found._asdict()) if found else None

        return await self._reader.find_or_wait(caller.service.id, id, JOBS, find)

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        """Return the first job with an Idempotency-Key. None may also mean no answer in time."""
        asked = {"service_id": service_id, "key_hash": key_hash}

        def find(connection: Connection) -> FirstJob | None:
            found = connection.execute(FIRST, asked).first()
            if found is None:
                return None
            columns = found._asdict()
            body_hash = bytes(columns.pop("body_hash"))
            return FirstJob(_as_job(columns), body_hash)

        return await self._reader.ask_briefly(find)

    async def page(self, caller: Caller, older_than: UUID | None) -> list[Job]:
        """Give a page of a caller's jobs, newest first; raises Unavailable."""
        sql = OLDER if older_than else NEWEST
        asked = {**_own(caller), "id": older_than}
        return await self._reader.ask(
            lambda c: [_as_job(row._asdict()) for row in c.execute(sql, asked)]
        )

    async def tally(self, job: Job) -> JobCounts:
        """Count a job's rows, or give what was counted a moment ago; raises Unavailable."""
        return await self._counts.of(job)

    async def quiet(self, job: Job) -> bool:
        """Tell whether no row of a job waits to be sent; raises Unavailable.

        Looked up once for good: a row that is sent again later does not undo that it finished.
        """
        if job.id in self._quiet:
            return True
        asked = _range(job, 1, job.rows)
        waits = await self._slow.ask(lambda c: bool(c.execute(WAITS, asked).scalar_one()))
        if not waits:
            if len(self._quiet) >= KEPT_MAX:
                del self._quiet[next(iter(self._quiet))]
            self._quiet[job.id] = None
        return not waits

    async def stretch(self, job: Job, first: int, last: int, write: Callable[[Stretch], T]) -> T:
        """Read rows of a job, and give what `write` makes of them, in the reader's thread.

        Raises Unavailable.
        """

        def read(connection: Connection) -> T:
            found = connection.execute(STORED, _range(job, first, last))
            rows = [_as_stored(each) for each in found]
            chunks: list[StoredChunk] = []
            # A row that is saved in between is shown as it was.
            if len(rows) <= last - first:
                asked = {"upload_id": job.upload_id, "first": first, "last": last}
                chunks = [
                    StoredChunk(each.number, each.first, bytes(each.sealed))
                    for each in connection.execute(UNSTORED, asked)
                ]
            return write(Stretch(first, last, rows, chunks))

        return await self._slow.ask(read)

    async def _count(self, job: Job) -> JobCounts:
        def ask(connection: Connection) -> JobCounts:
            states = connection.execute(STATES, _range(job, 1, job.rows)).all()
            asked = {"upload_id": job.upload_id, "recent": RECENT}
            settled = connection.execute(SETTLED, asked).one()
            counts = {State(state): int(count) for state, count in states}
            return JobCounts(counts, int(settled.settled), int(settled.recent), settled.at)

        return await self._slow.ask(ask)


class Kept:
    """Counts, each kept ten times as long as counting took; who asks meanwhile waits for it."""

    def __init__(
        self,
        count: Callable[[Job], Awaitable[JobCounts]],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._seconds = seconds
        self._found: dict[UUID, tuple[asyncio.Task[JobCounts], float]] = {}

    async def of(self, job: Job) -> JobCounts:
        """Count a job's rows, at most as old as is said above; raises what counting does."""
        task, until = self._found.get(job.id, (None, 0.0))
        if task is None or self._seconds() >= until:
            task = asyncio.create_task(self._counted(job))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._keep(job.id, task, float("inf"))
        # One who leaves does not end what others wait for.
        return await asyncio.shield(task)

    async def _counted(self, job: Job) -> JobCounts:
        began, task = self._seconds(), asyncio.current_task()
        assert task
        try:
            found = await self._count(job)
        except BaseException:
            self._found.pop(job.id, None)
            raise
        now = self._seconds()
        self._keep(job.id, task, now + max(KEPT_SECONDS_MIN, KEPT_FACTOR * (now - began)))
        return found

    def _keep(self, id: UUID, task: asyncio.Task[JobCounts], until: float) -> None:
        self._found.pop(id, None)
        if len(self._found) >= KEPT_MAX:
            del self._found[next(iter(self._found))]
        self._found[id] = task, until


def _own(caller: Caller) -> dict[str, object]:
    return {"service_id": caller.service.id, "key_type": caller.key.type}


def _range(job: Job, first: int, last: int) -> dict[str, object]:
    low, high = ids.of_rows(job.id, first, last)
    return {"low": low, "high": high, "job": job.id}


def _as_job(values: Mapping[str, Any]) -> Job:
    return Job(
        **{
            **values,
            "key_type": KeyType(values["key_type"]),
            "channel": Channel(values["channel"]),
            "name": bytes(values["name"]),
            "command": Command(values["command"]) if values["command"] else None,
        }
    )


def _as_stored(found: Any) -> Stored:
    job_row, id, sealed, reference, state, *rest = found
    return Stored(job_row, id, bytes(sealed or b""), reference, State(state), *rest)
