"""Jobs as ingest finds them stored, in memory, and how tests make them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from courant import crypto, ids
from courant.contracts import KeyType
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.topics import Channel
from ingest.callers.auth import Caller
from ingest.jobs.rows import Job, JobCounts
from ingest.jobs.store import Stored, StoredChunk, Stretch
from ingest.read.store import Missing

T = TypeVar("T")
NOW = datetime(2026, 5, 6, 12, tzinfo=UTC)
TEMPLATE = UUID("7e000000-0000-4000-8000-000000000001")
KEY = UUID(int=(0x6E << 64) + 1)


def job(ring: crypto.KeyRing, **more: Any) -> Job:
    """Give a job of two rows in one chunk, sealed a second ago, not begun."""
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
        "at": NOW - timedelta(seconds=1),
        "started_at": None,
        "finished_at": None,
        "command": None,
        "wished_at": None,
        "chunks_here": 1,
        "now": NOW,
    }
    return Job(**{**given, **more})


@dataclass
class FakeJobs:
    """Jobs of one service, as `ingest.job_desk.Jobs`; nothing while Postgres is away."""

    works: bool = True
    counts: bool = True  # whether counting ends in time
    certain: bool = True  # that what is not here will never be
    jobs: dict[UUID, Job] = field(default_factory=dict)
    rows: dict[UUID, list[Stored]] = field(default_factory=dict)
    chunks: dict[UUID, list[StoredChunk]] = field(default_factory=dict)
    release: asyncio.Event | None = None  # until then no job is given
    reads: int = 0  # stretches that were read
    away_after: int | None = None  # so many of them

    def put(self, job: Job) -> Job:
        self.jobs[job.id] = job
        return job

    def _ask(self) -> None:
        if not self.works:
            raise Unavailable("Postgres: away")

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        if self.release:
            await self.release.wait()
        self._ask()
        found = self.jobs.get(id)
        return found if found and found.key_type is caller.key.type else Missing(self.certain)

    async def page(self, caller: Caller, older_than: UUID | None) -> Sequence[Job]:
        self._ask()
        own = [each for each in self.jobs.values() if each.key_type is caller.key.type]
        newest = sorted(own, key=lambda each: (each.accepted_at, each.id), reverse=True)
        if older_than:
            here = [place for place, each in enumerate(newest, 1) if each.id == older_than]
            newest = newest[here[0] :] if here else []
        return newest[:50]

    async def tally(self, job: Job) -> JobCounts:
        self._ask()
        if not self.counts:
            raise Unavailable("Postgres: canceling statement due to statement timeout")
        states = [each.state for each in self.rows.get(job.id, [])]
        return JobCounts({state: states.count(state) for state in states}, len(states), 1, NOW)

    async def quiet(self, job: Job) -> bool:
        self._ask()
        waits = {State.CREATED, State.CLAIMED}
        return not any(each.state in waits for each in self.rows.get(job.id, []))

    async def stretch(self, job: Job, first: int, last: int, write: Callable[[Stretch], T]) -> T:
        self.reads += 1
        if self.away_after is not None and self.reads > self.away_after:
            raise Unavailable("Postgres: away")
        rows = [each for each in self.rows.get(job.id, []) if first <= each.job_row <= last]
        return write(Stretch(first, last, rows, self.chunks.get(job.id, [])))
