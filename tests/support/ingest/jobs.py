"""Fake stored jobs in memory, as ingest reads them, and builders of them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from courant import crypto, ids
from courant.contracts import KeyType, Seal
from courant.errors import Unavailable
from courant.topics import Channel
from ingest.callers.auth import Caller
from ingest.jobs.rows import RATE_PERIOD, UNSENT, FirstJob, Job, JobCounts
from ingest.jobs.store import PAGE_JOBS, RowRange, StoredChunk, StoredRow
from ingest.read.store import Missing

T = TypeVar("T")
NOW = datetime(2026, 5, 6, 12, tzinfo=UTC)
LOOKS = 20  # how often a read looks for its job before it gives up
SERVICE = UUID("5e000000-0000-4000-8000-000000000001")
TEMPLATE = UUID("7e000000-0000-4000-8000-000000000001")
KEY = UUID(int=(0x6E << 64) + 1)


def job(ring: crypto.KeyRing, **more: Any) -> Job:
    """Return a job of two rows in one chunk, accepted a second ago and not started."""
    id = more.pop("id", None) or ids.new(NOW)
    given: dict[str, Any] = {
        "id": id,
        "upload_id": ids.new(NOW),
        "chunks": 1,
        "rows": 2,
        "key_id": KEY,
        "key_type": KeyType.NORMAL,
        "template_id": TEMPLATE,
        "template_version": 1,
        "channel": Channel.EMAIL,
        "sender_id": None,
        "name": ring.encrypt(b"list.csv", owner=id.bytes),
        "accepted_at": NOW - timedelta(seconds=1),
        "scheduled_for": None,
        "stored_at": NOW - timedelta(seconds=1),
        "started_at": None,
        "finished_at": None,
        "command": None,
        "commanded_at": None,
        "chunks_stored": 1,
        "now": NOW,
    }
    return Job(**{**given, **more})


def stored_job(seal: Seal) -> Job:
    """Return the job that a seal makes, read before any of its chunks is folded."""
    return Job(
        id=seal.job_id,
        upload_id=seal.upload_id,
        chunks=seal.chunks,
        rows=seal.rows,
        key_id=seal.key_id,
        key_type=seal.key_type,
        template_id=seal.template_id,
        template_version=seal.template_version,
        channel=seal.channel,
        sender_id=seal.sender_id,
        name=seal.name,
        accepted_at=seal.accepted_at,
        scheduled_for=seal.scheduled_for,
        stored_at=NOW,
        started_at=None,
        finished_at=None,
        command=None,
        commanded_at=None,
        chunks_stored=0,
        now=NOW,
    )


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk as job-runner stores it."""

    number: int
    first: int
    rows: int
    sealed: bytes
    settled_at: datetime | None = None


@dataclass
class FakeJobs:
    """Jobs as `ingest.jobs.handle.Jobs`; their clock stands at NOW.

    `tests/twins/test_ingest_jobs.py` runs the same tests on them and on PostgreSQL, behind
    `ingest.jobs.store.JobStore`.
    """

    works: bool = True
    counts: bool = True  # whether counting ends before its timeout
    certain: bool = True  # whether a missing job will never be stored
    jobs: dict[UUID, Job] = field(default_factory=dict)
    owners: dict[UUID, UUID] = field(default_factory=dict)  # the jobs' services
    # From ids that lost to the winner: both came with one Idempotency-Key.
    aliases: dict[UUID, UUID] = field(default_factory=dict)
    # The job that an Idempotency-Key of a service stands for, and the hash of its request's body.
    keys: dict[tuple[UUID, bytes], tuple[UUID, bytes]] = field(default_factory=dict)
    rows: dict[UUID, list[StoredRow]] = field(default_factory=dict)
    chunks: dict[UUID, list[ChunkRow]] = field(default_factory=dict)
    release: asyncio.Event | None = None  # reads of one job wait for it
    looks: int = 0  # reads of one job that found none
    reads: int = 0  # calls of read_rows
    away_after: int | None = None  # calls of read_rows that succeed; later ones raise Unavailable
    _finished: set[UUID] = field(default_factory=set)  # jobs that once had nothing to send

    def put(self, job: Job, service_id: UUID = SERVICE) -> Job:
        self.jobs[job.id], self.owners[job.id] = job, service_id
        return job

    def _ask(self) -> None:
        if not self.works:
            raise Unavailable("Postgres: away")

    def _own(self, caller: Caller) -> dict[UUID, Job]:
        return {
            id: self._read(each)
            for id, each in self.jobs.items()
            if (self.owners[id], each.key_type) == (caller.service.id, caller.key.type)
        }

    def _read(self, job: Job) -> Job:
        return replace(job, chunks_stored=len(self.chunks.get(job.id, [])))

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        if ids.time_of(id) is None:
            return Missing(certain=True)
        if self.release:
            await self.release.wait()
        for _ in range(LOOKS):
            self._ask()
            if found := self._own(caller).get(self.aliases.get(id, id)):
                return found
            self.looks += 1
            if self.certain:
                return Missing(certain=True)
            await asyncio.sleep(0)
        return Missing(certain=False)

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        id, body_hash = self.keys.get((service_id, key_hash), (None, b""))
        if not self.works or id is None:
            return None
        return FirstJob(self._read(self.jobs[id]), body_hash)

    async def page(self, caller: Caller, older_than: UUID | None) -> Sequence[Job]:
        self._ask()
        own = self._own(caller)
        newest = sorted(own.values(), key=age, reverse=True)
        if older_than:
            last = own.get(self.aliases.get(older_than, older_than))
            newest = [each for each in newest if last and age(each) < age(last)]
        return newest[:PAGE_JOBS]

    async def count_rows(self, job: Job) -> JobCounts:
        self._ask()
        if not self.counts:
            raise Unavailable("Postgres: canceling statement due to statement timeout")
        states = Counter(each.state for each in self.rows.get(job.id, []))
        settled = [each for each in self.chunks.get(job.id, []) if each.settled_at]
        recent = [
            each for each in settled if each.settled_at and each.settled_at > NOW - RATE_PERIOD
        ]
        return JobCounts(states, sum(c.rows for c in settled), sum(c.rows for c in recent), NOW)

    async def nothing_to_send(self, job: Job) -> bool:
        self._ask()
        if not any(each.state in UNSENT for each in self.rows.get(job.id, [])):
            self._finished.add(job.id)
        return job.id in self._finished

    async def read_rows(self, job: Job, first: int, last: int, write: Callable[[RowRange], T]) -> T:
        self._ask()
        self.reads += 1
        if self.away_after is not None and self.reads > self.away_after:
            raise Unavailable("Postgres: away")
        rows = [each for each in self.rows.get(job.id, []) if first <= each.job_row <= last]
        chunks = [
            StoredChunk(each.number, each.first, each.sealed)
            for each in sorted(self.chunks.get(job.id, []), key=attrgetter("number"))
            if each.first <= last and each.first + each.rows > first
        ]
        return write(RowRange(first, last, rows, chunks if len(rows) <= last - first else []))


def age(job: Job) -> tuple[datetime, UUID]:
    """Return the order of a list. Ids do not sort by time if a key made them."""
    return job.accepted_at, job.id
