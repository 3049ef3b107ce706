"""The tables of jobs in the Postgres in memory: uploads, jobs, and commands to jobs.

They know what is inserted once, what is overwritten, and which job an Idempotency-Key stands for.
They refuse no value, and they forget nothing after some days as Postgres does.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import msgspec

from courant.contracts import Chunk, Command, JobCommand, JobRecord, Notification, Seal
from courant.idempotency import Holder, Loser, confirm, judge


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

    @property
    def movable(self) -> bool:
        """Whether nothing of the job was sent, so that it may give way to another."""
        return self.started_at is None and self.finished_at is None


@dataclass
class JobTables:
    """The content of Postgres about jobs."""

    chunks: dict[tuple[UUID, int], FakeChunk] = field(default_factory=dict)
    jobs: dict[UUID, FakeJob] = field(default_factory=dict)
    commands: dict[UUID, JobCommand] = field(default_factory=dict)
    keys: dict[tuple[UUID, bytes], list[Holder]] = field(default_factory=dict)
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
    ) -> tuple[list[Seal], list[JobCommand]]:
        """Store the records.

        Returns the seals that `job_runner.handle.Fold.store` returns, and the commands that hold.
        """
        told: list[Seal] = []
        commands: list[JobCommand] = []
        for record in records:
            match record:
                case Chunk():
                    self.chunks.setdefault((record.upload_id, record.number), FakeChunk(record))
                case Seal():
                    told += self._seal(record, now)
                case JobCommand():
                    commands += self._command(record)
        return told, commands

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

    def _command(self, command: JobCommand) -> list[JobCommand]:
        """Store a command, for the winner if its job lost its key; return it if it holds now."""
        job_id = self.aliases.get(command.job_id, command.job_id)
        command = msgspec.structs.replace(command, job_id=job_id)
        if not self._overrides(command):
            return []
        self.commands[job_id] = command
        return [command]

    def _seal(self, seal: Seal, now: datetime) -> list[Seal]:
        if seal.idempotency_key is None:
            self.jobs.setdefault(seal.job_id, FakeJob(seal, now))
            return []
        if seal.instead_of is not None:
            self._prefer(seal, seal.instead_of, now)
            return []
        if seal.job_id in self.jobs or seal.job_id in self.aliases:
            return []
        told: list[Seal] = []
        is_new = True
        movable = {id for id, job in self.jobs.items() if job.movable}
        for loser in self.judge(seal.service_id, seal.idempotency_key, holder_of(seal), movable):
            lost = loser.id == seal.job_id
            if loser.same_body:
                is_new = is_new and not lost
                self.make_alias(loser)
                self._carry(loser.id, loser.winner)
                self._remove(loser.id)
                if loser.late:
                    winner = self.jobs[loser.winner].seal
                    told.append(msgspec.structs.replace(winner, instead_of=loser.id))
            else:
                cancelled, at = Command.CANCELLED, seal.accepted_at
                self._command(JobCommand(job_id=loser.id, command=cancelled, at=at))
                told += [seal] * lost
        if is_new:
            self.jobs.setdefault(seal.job_id, FakeJob(seal, now))
        return told

    def _prefer(self, seal: Seal, loser: UUID, now: datetime) -> None:
        self._remove(loser)
        if loser in self.aliases or loser in self.jobs:
            return
        assert seal.idempotency_key
        key = seal.service_id, seal.idempotency_key
        self.keys[key] = confirm(self.keys.get(key, []), holder_of(seal), loser)
        self.aliases.pop(seal.job_id, None)
        self.make_alias(Loser(loser, seal.job_id, same_body=True))
        self._carry(loser, seal.job_id)
        self.jobs.setdefault(seal.job_id, FakeJob(seal, now))

    def _carry(self, loser: UUID, winner: UUID) -> None:
        if loser in self.commands:
            self._command(msgspec.structs.replace(self.commands[loser], job_id=winner))

    def _remove(self, job_id: UUID) -> None:
        if job_id in self.jobs and self.jobs[job_id].movable:
            del self.jobs[job_id]

    def judge(
        self, service_id: UUID, key_hash: bytes, new: Holder, movable: Container[UUID]
    ) -> list[Loser]:
        """Let a key stand for one of its requests; return those that lost it."""
        key = service_id, key_hash
        self.keys[key], losers = judge(self.keys.get(key, []), new, movable)
        return losers

    def make_alias(self, loser: Loser) -> None:
        """Make the loser's id another name of its winner."""
        for id, winner in list(self.aliases.items()):
            if winner == loser.id:
                self.aliases[id] = loser.winner
        self.aliases.setdefault(loser.id, loser.winner)


def holder_of(record: Notification | Seal) -> Holder:
    """Return a request that its Idempotency-Key may stand for."""
    id = record.job_id if isinstance(record, Seal) else record.id
    return Holder(id, record.body_hash or b"", record.accepted_at, record.accepted_at)
