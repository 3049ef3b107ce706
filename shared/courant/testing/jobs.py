"""The tables of jobs in the Postgres in memory: uploads, jobs, and commands to jobs.

They know what is inserted once, what is overwritten, and which job an Idempotency-Key stands for.
They refuse no value, and they forget nothing after some days as Postgres does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from courant.contracts import Chunk, Command, JobCommand, JobRecord, Seal


@dataclass(frozen=True)
class FakeChunk:
    """A row of the table `chunks`."""

    chunk: Chunk
    issued_at: datetime | None = None
    orders: int = 0
    saved_at: datetime | None = None
    settled_at: datetime | None = None

    @property
    def under_way(self) -> bool:
        """Whether the chunk was ordered, and is still in its lane or lacks some of its rows."""
        return self.orders > 0 and (self.settled_at is None or self.saved_at is None)


@dataclass(frozen=True)
class FakeJob:
    """A row of the table `jobs`."""

    seal: Seal
    at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass
class JobTables:
    """The content of Postgres about jobs."""

    chunks: dict[tuple[UUID, int], FakeChunk] = field(default_factory=dict)
    jobs: dict[UUID, FakeJob] = field(default_factory=dict)
    commands: dict[UUID, JobCommand] = field(default_factory=dict)
    keys: dict[tuple[UUID, bytes], tuple[UUID, bytes | None]] = field(default_factory=dict)
    aliases: dict[UUID, UUID] = field(default_factory=dict)
    held: bool = False  # the hold of scope `jobs`

    def copy(self) -> "JobTables":
        """Copy the tables; rows are never changed, only replaced."""
        return replace(
            self,
            chunks=self.chunks.copy(),
            jobs=self.jobs.copy(),
            commands=self.commands.copy(),
            keys=self.keys.copy(),
            aliases=self.aliases.copy(),
        )

    def store(
        self, records: Sequence[JobRecord], now: datetime
    ) -> tuple[list[JobRecord], list[JobCommand]]:
        """Store the records.

        Returns the seals whose key was used with another body, and the commands that now hold.
        """
        refused: list[JobRecord] = []
        commands: list[JobCommand] = []
        for record in records:
            match record:
                case Chunk():
                    self.chunks.setdefault((record.upload_id, record.number), FakeChunk(record))
                case Seal():
                    if not self._seal(record, now):
                        refused.append(record)
                case JobCommand():
                    if self._overrides(record):
                        self.commands[record.job_id] = record
                        commands.append(record)
        return refused, commands

    def cancelled(self, job_id: UUID) -> bool:
        """Return whether the job was cancelled."""
        last = self.commands.get(job_id)
        return last is not None and last.command is Command.CANCELLED

    def runs(self, job_id: UUID | None) -> bool:
        """Return whether the job is neither paused nor cancelled; true without a job."""
        last = self.commands.get(job_id) if job_id else None
        return last is None or last.command is Command.RESUMED

    def chunks_of(self, upload_id: UUID) -> list[FakeChunk]:
        """Return the upload's chunks in their order."""
        rows = [row for (upload, _), row in self.chunks.items() if upload == upload_id]
        return sorted(rows, key=lambda row: row.chunk.number)

    def _overrides(self, new: JobCommand) -> bool:
        before = self.commands.get(new.job_id)
        if before is None:
            return True
        if before.command is Command.CANCELLED:
            return False
        return new.command is Command.CANCELLED or new.at >= before.at

    def _seal(self, seal: Seal, now: datetime) -> bool:
        """Store the job unless its key stands for another; return false if the bodies differ."""
        if seal.idempotency_key is not None:
            if seal.job_id in self.aliases:
                return True
            key = seal.service_id, seal.idempotency_key
            winner, body_hash = self.keys.setdefault(key, (seal.job_id, seal.body_hash))
            if winner != seal.job_id:
                self.aliases.setdefault(seal.job_id, winner)
            if body_hash != seal.body_hash:
                return False
            if winner != seal.job_id:
                return True
        self.jobs.setdefault(seal.job_id, FakeJob(seal, now))
        return True
