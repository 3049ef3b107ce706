"""Job-runner's stores on the Postgres in memory; `job_twins` compares them with the real ones.

They have no locks (two rounds may be at work, and the first to commit wins) and no holds of a
service or channel.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from courant import bulk
from courant.bulk import ChunkRef, StoredRows
from courant.contracts import JobRecord, Seal
from courant.lifecycle import State
from courant.records import Keep, Span
from courant.testing.jobs import FakeChunk, FakeJob
from courant.testing.store import FakeStore, T, fresh
from courant.testing.tables import Tables
from courant.topics import Channel, Positions
from job_runner.dispatch_store import CHUNKS_MAX, JOBS_MAX
from job_runner.rows import Job, OrderedChunk, StoredChunk, WaitingJob

LATE = timedelta(seconds=10)


class FakeJobStore:
    """`job_runner.handle.Store`: it stores uploads and reads chunks."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.compare, self.cut, self.skip = store.compare, store.cut, store.skip

    @contextmanager
    def fold(self, span: Span) -> Iterator["FakeJobFold"]:
        with self._store.moving_on(span) as (tables, positions):
            yield FakeJobFold(tables, positions, self._store.world.now())

    def chunk(self, job_id: UUID, number: int) -> StoredChunk | None:
        self._store.world.pass_by()
        tables = self._store.tables
        job = tables.jobs.jobs.get(job_id)
        row = tables.jobs.chunks.get((job.seal.upload_id, number)) if job else None
        if not job or not row or row.saved_at or tables.jobs.cancelled(job_id):
            return None
        [stored] = count(tables, [chunk_ref(job, row)])
        if stored.there == row.chunk.rows:
            return None
        return StoredChunk(job_of(job.seal), row.chunk.upload_id, row.chunk.first, row.chunk.sealed)


class FakeJobFold:
    """A transaction on tables that no other transaction sees yet."""

    def __init__(self, tables: Tables, positions: Positions, now: datetime) -> None:
        self._tables, self._positions, self._now = tables, positions, now

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        return fresh(kept, self._positions)

    def store(self, records: Sequence[JobRecord]) -> Sequence[Seal]:
        told, commands = self._tables.jobs.store(records, self._now)
        self._tables.events += [(f"job {each.command}", each.job_id, 0, True) for each in commands]
        return told

    def trial(self) -> AbstractContextManager[None]:
        return self._tables.trial()


class FakeRounds:
    """`job_runner.dispatch.Store`."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    @contextmanager
    def round(self) -> Iterator["FakeRound | None"]:
        with self._store.transaction() as tables:
            held = tables.held or tables.jobs.held
            yield None if held else FakeRound(tables, self._store.world.now)


class FakeRound:
    """One round's transaction. The events record what it does to jobs and chunks."""

    def __init__(self, tables: Tables, clock: Callable[[], datetime]) -> None:
        self._tables, self._clock, self._now = tables, clock, clock()
        self._jobs, self._chunks = tables.jobs.jobs, tables.jobs.chunks

    def ordered_chunks(self) -> tuple[datetime, list[OrderedChunk]]:
        under_way = [
            (row, job)
            for job in self._running()
            for row in self._tables.jobs.chunks_of(job.seal.upload_id)
            if row.under_way
        ]
        under_way.sort(key=lambda each: by_age(each[0]))
        return self._now, [
            OrderedChunk(
                chunk_ref(job, row),
                job.seal.channel,
                job.seal.service_id,
                row.issued_at or self._now,
                row.settled_at is None and row.orders == 1,
            )
            for row, job in under_way
        ]

    def count_rows(self, chunks: Sequence[ChunkRef]) -> list[StoredRows]:
        return count(self._tables, chunks)

    def record_settled(self, saved: Sequence[ChunkRef], settled: Sequence[ChunkRef]) -> None:
        note_saved(self._tables, saved, self._clock())
        for each in settled:
            row = self._chunks[each.upload_id, each.number]
            if row.settled_at is None:
                self._chunks[each.upload_id, each.number] = replace(row, settled_at=self._clock())
                self._tables.events.append(("settled", each.upload_id, each.number, True))

    def settled_since(self, seconds: float) -> Mapping[Channel, int]:
        since = self._now - timedelta(seconds=seconds)
        channels = {job.seal.upload_id: job.seal.channel for job in self._jobs.values()}
        return Counter(
            channels[row.chunk.upload_id]
            for row in self._chunks.values()
            if row.chunk.upload_id in channels and row.settled_at and row.settled_at > since
        )

    def stuck_jobs(self) -> list[UUID]:
        return [
            job.seal.job_id
            for job in self._running()
            if self._is_due(job)
            and (
                any(row.saved_at is None and row.orders > 4 for row in self._rows(job))
                if job.started_at
                else job.at < self._now - LATE and len(self._rows(job)) < job.seal.chunks
            )
        ]

    def waiting_jobs(self) -> list[WaitingJob]:
        of_service: Counter[UUID] = Counter()
        waiting = []
        for job in sorted(self._running(), key=lambda job: (job.seal.accepted_at, job.seal.job_id)):
            rows = self._rows(job)
            left = sum(row.issued_at is None for row in rows)
            ready = left > 0 if job.started_at else len(rows) >= job.seal.chunks
            if not ready or not self._is_due(job):
                continue
            of_service[job.seal.service_id] += 1
            if of_service[job.seal.service_id] <= JOBS_MAX:
                waiting.append(waiting_job(job, min(left, CHUNKS_MAX)))
        return waiting

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        rows = self._tables.jobs.chunks_of(upload_id)
        return [bulk.fingerprint(row.chunk.sealed) for row in rows]

    def start_job(self, job_id: UUID) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], started_at=self._clock())
        self._tables.events.append(("started", job_id, 0, True))

    def unordered_chunks(self, job_id: UUID, limit: int) -> list[ChunkRef]:
        job = self._jobs[job_id]
        return [chunk_ref(job, row) for row in self._rows(job) if row.issued_at is None][:limit]

    def record_orders(self, chunks: Sequence[ChunkRef]) -> None:
        note_ordered(self._tables, chunks, self._clock(), "ordered")

    def finish_jobs(self) -> int:
        over = [
            job
            for job in self._jobs.values()
            if job.finished_at is None
            and (
                self._tables.jobs.cancelled(job.seal.job_id)
                or (
                    job.started_at
                    and all(row.issued_at and not row.under_way for row in self._rows(job))
                )
            )
        ]
        for job in over:
            self._jobs[job.seal.job_id] = replace(job, finished_at=self._clock())
            self._tables.events.append(("finished", job.seal.job_id, 0, True))
        return len(over)

    def _rows(self, job: FakeJob) -> list[FakeChunk]:
        return self._tables.jobs.chunks_of(job.seal.upload_id)

    def _running(self) -> list[FakeJob]:
        """Return the jobs that are not finished, and neither paused nor cancelled."""
        return [
            job
            for id, job in self._jobs.items()
            if job.finished_at is None and self._tables.jobs.runs(id)
        ]

    def _is_due(self, job: FakeJob) -> bool:
        return job.seal.scheduled_for is None or job.seal.scheduled_for <= self._now


def by_age(row: FakeChunk) -> tuple[bool, float, int]:
    """Return a key that sorts chunks ordered once first, by age, then the others, latest first."""
    at = row.issued_at.timestamp() if row.issued_at else 0.0
    return row.orders > 1, at if row.orders == 1 else -at, row.chunk.number


def count(tables: Tables, chunks: Sequence[ChunkRef]) -> list[StoredRows]:
    """Count the rows of each chunk, and those that wait for their first attempt."""
    counted = []
    for each in chunks:
        numbers = range(each.first, each.first + each.rows)
        rows = [
            row
            for row in tables.rows.values()
            if row.notification.job_id == each.job_id and row.notification.job_row in numbers
        ]
        waiting = sum(row.state is State.CREATED and row.attempt == 0 for row in rows)
        counted.append(StoredRows(len(rows), waiting))
    return counted


def note_saved(tables: Tables, chunks: Sequence[ChunkRef], now: datetime) -> None:
    for each in chunks:
        row = tables.jobs.chunks[each.upload_id, each.number]
        if row.saved_at is None:
            tables.jobs.chunks[each.upload_id, each.number] = replace(row, saved_at=now)


def note_ordered(tables: Tables, chunks: Sequence[ChunkRef], now: datetime, event: str) -> None:
    for each in chunks:
        row = tables.jobs.chunks[each.upload_id, each.number]
        changed = replace(row, issued_at=now, orders=row.orders + 1)
        tables.jobs.chunks[each.upload_id, each.number] = changed
        tables.events.append((event, each.upload_id, each.number, True))


def chunk_ref(job: FakeJob, row: FakeChunk) -> ChunkRef:
    chunk = row.chunk
    return ChunkRef(job.seal.job_id, chunk.upload_id, chunk.number, chunk.first, chunk.rows)


def job_of(seal: Seal) -> Job:
    return Job(
        seal.job_id,
        seal.service_id,
        seal.key_id,
        seal.key_type,
        seal.template_id,
        seal.template_version,
        seal.channel,
        seal.sender_id,
    )


def waiting_job(job: FakeJob, left: int) -> WaitingJob:
    seal = job.seal
    return WaitingJob(
        seal.job_id,
        seal.upload_id,
        seal.service_id,
        seal.channel,
        seal.chunks,
        seal.digest,
        job.started_at is not None,
        left,
    )
