"""Two stores of jobs for the same tests, in memory and in Postgres, which tests can write to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from sqlalchemy import Engine

import job_runner.store
from courant import ids
from courant.contracts import Command, JobCommand
from courant.records import Record
from courant.testing.builders import partition
from courant.topics import JOBS
from ingest.jobs.handle import Jobs
from ingest.jobs.rows import Job
from ingest.jobs.store import JobStore, StoredRow
from support.ingest.jobs import NOW, SERVICE, ChunkRow, FakeJobs
from support.ingest.twins import away, emptied, fold_jobs, locked, mark, reader
from support.roles import acting


class JobsTwin(Protocol):
    """Jobs, with their chunks and rows."""

    @property
    def jobs(self) -> Jobs: ...
    @property
    def looks(self) -> int: ...
    def put(self, job: Job, service_id: UUID = SERVICE) -> Job: ...
    def want(self, job: Job, wish: Command, at: datetime) -> None: ...
    def alias(self, loser: UUID, winner: UUID) -> None: ...
    def chunk(self, job: Job, chunk: ChunkRow, settled_for: timedelta | None = None) -> None: ...
    def row(self, job: Job, row: StoredRow) -> None: ...
    def folded(self, everything: bool) -> None: ...
    def away(self) -> AbstractContextManager[None]: ...
    def slow(self) -> AbstractContextManager[None]: ...


class FakeJobsTwin:
    def __init__(self) -> None:
        self.jobs = FakeJobs()

    @property
    def looks(self) -> int:
        return self.jobs.looks

    def put(self, job: Job, service_id: UUID = SERVICE) -> Job:
        return self.jobs.put(job, service_id)

    def want(self, job: Job, wish: Command, at: datetime) -> None:
        self.jobs.put(replace(job, command=wish, commanded_at=at), self.jobs.owners[job.id])

    def alias(self, loser: UUID, winner: UUID) -> None:
        self.jobs.aliases[loser] = winner

    def chunk(self, job: Job, chunk: ChunkRow, settled_for: timedelta | None = None) -> None:
        settled_at = None if settled_for is None else NOW - settled_for
        chunks = self.jobs.chunks.setdefault(job.id, [])
        chunks.append(replace(chunk, settled_at=settled_at))

    def row(self, job: Job, row: StoredRow) -> None:
        rows = self.jobs.rows.setdefault(job.id, [])
        rows[:] = [*(each for each in rows if each.id != row.id), row]

    def folded(self, everything: bool) -> None:
        self.jobs.certain = everything

    @contextmanager
    def away(self) -> Iterator[None]:
        self.jobs.works = False
        yield
        self.jobs.works = True

    @contextmanager
    def slow(self) -> Iterator[None]:
        self.jobs.counts = False
        yield
        self.jobs.counts = True


OF_A_JOB = (
    "id", "upload_id", "chunks", "rows", "key_id", "key_type", "template_id", "template_version",
    "channel", "sender_id", "name", "accepted_at", "scheduled_for", "started_at",
    "finished_at",
)  # fmt: skip
PUT_ROW = """
    INSERT INTO notifications (id, service_id, key_id, key_type, template_id, template_version,
        channel, lane, job_id, job_row, recipient_hash, accepted_at,
        sealed, reference, state, state_at, sent_at, reason, response)
    SELECT :id, service_id, key_id, key_type, template_id, template_version,
        channel, 'bulk', id, :job_row, '', accepted_at,
        :sealed, :reference, :state, :state_at, :sent_at, :reason, :response
    FROM jobs WHERE id = :job_id
    ON CONFLICT (id) DO UPDATE SET state = excluded.state"""
PUT_CHUNK = """
    INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed, settled_at)
    VALUES (:upload_id, :number, :first, :rows, '', :sealed,
        now() - CAST(:settled_for AS interval))"""


class PostgresJobsTwin:
    def __init__(self, engine: Engine) -> None:
        self.hand = emptied(engine)
        self.runner = job_runner.store.PostgresStore(acting(engine, "courant_job_runner"))
        self.wanted = 0  # commands in the log
        self.reader, self.counter = reader(engine), reader(engine)
        self.jobs = JobStore(self.reader, self.counter)

    @property
    def looks(self) -> int:
        return self.reader.looks

    def put(self, job: Job, service_id: UUID = SERVICE) -> Job:
        values = {name: getattr(job, name) for name in OF_A_JOB}
        values |= {"at": job.stored_at, "service_id": service_id, "digest": b""}
        names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        self.hand.ask(f"INSERT INTO jobs ({names}) VALUES ({places})", **values)
        self.hand.ask("SELECT courant_make_day('notifications', :day)", day=ids.day_of(job.id))
        return job

    def want(self, job: Job, wish: Command, at: datetime) -> None:
        """Fold a command with job-runner's own code."""
        value = JobCommand(job_id=job.id, command=wish, at=at).encode()
        record = Record(partition(JOBS.name), self.wanted, job.id.bytes, value, (), at)
        self.wanted += 1
        fold_jobs(self.runner, [record])

    def alias(self, loser: UUID, winner: UUID) -> None:
        self.hand.ask("INSERT INTO aliases (id, winner) VALUES (:l, :w)", l=loser, w=winner)

    def chunk(self, job: Job, chunk: ChunkRow, settled_for: timedelta | None = None) -> None:
        values = {**asdict(chunk), "upload_id": job.upload_id, "settled_for": settled_for}
        self.hand.ask(PUT_CHUNK, **values)

    def row(self, job: Job, row: StoredRow) -> None:
        self.hand.ask(PUT_ROW, job_id=job.id, **asdict(row))

    def folded(self, everything: bool) -> None:
        mark(self.hand, JOBS, {JOBS.name: 0 if everything else self.wanted + 1})

    def away(self) -> AbstractContextManager[None]:
        return away(self.hand)

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Let counting wait for longer than its statement may take."""
        brief = reader(self.hand.engine, statement_seconds=1)
        self.jobs = JobStore(self.reader, brief)
        with locked(self.hand, "notifications"):
            yield
        self.jobs = JobStore(self.reader, self.counter)
        brief.close()

    def close(self) -> None:
        self.reader.close()
        self.counter.close()
