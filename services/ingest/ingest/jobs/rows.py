"""What the store of jobs reads: a job, and how many of its rows stand where."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from courant.contracts import Command, KeyType
from courant.lifecycle import State
from courant.topics import Channel

RECENT = timedelta(seconds=30)  # over which the rate is taken


OPEN = frozenset({State.CREATED, State.CLAIMED})  # not yet with a provider


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is stored, and what was wished for it."""

    id: UUID
    upload_id: UUID
    chunks: int
    rows: int
    key_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: int
    channel: Channel
    sender_id: UUID | None
    name: bytes  # the file's, sealed
    accepted_at: datetime
    scheduled_for: datetime | None
    at: datetime  # its seal was folded
    started_at: datetime | None
    finished_at: datetime | None
    command: Command | None
    wished_at: datetime | None
    chunks_here: int
    now: datetime  # when it was read


@dataclass(frozen=True, slots=True)
class FirstJob:
    """The job of the first request with an Idempotency-Key, and the hash of that request's body."""

    job: Job
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many rows of a job stand where."""

    states: Mapping[State, int]  # of those that are stored
    settled: int  # rows whose chunk is done with
    recent: int  # of these, since RECENT
    at: datetime

    @property
    def quiet(self) -> bool:
        """Tell whether none of what is stored waits to be sent."""
        return not any(self.states.get(state) for state in OPEN)
