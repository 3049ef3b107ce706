"""What the jobs' store reads: a job, and how many of its rows are in each state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from courant.contracts import Command, KeyType
from courant.lifecycle import State
from courant.topics import Channel

RATE_PERIOD = timedelta(seconds=30)
"""The rate of a job is measured over this time, up to now."""
UNSENT = frozenset({State.CREATED, State.CLAIMED})
"""States of rows that no provider has yet."""


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job, with the last command for it."""

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
    name: bytes  # of the file, encrypted
    accepted_at: datetime
    scheduled_for: datetime | None
    stored_at: datetime  # when job-runner stored the job, on reading its seal
    started_at: datetime | None
    finished_at: datetime | None
    command: Command | None
    commanded_at: datetime | None
    chunks_stored: int
    now: datetime  # Postgres's time when it read the job


@dataclass(frozen=True, slots=True)
class FirstJob:
    """The job of the first request with an Idempotency-Key, and the hash of that request's body."""

    job: Job
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many rows of a job are in each state."""

    states: Mapping[State, int]  # of the rows that are stored as notifications
    settled: int  # rows whose chunk is settled
    settled_recently: int  # those of them that settled within RATE_PERIOD
    counted_at: datetime

    @property
    def nothing_to_send(self) -> bool:
        """Whether no stored row waits to be sent."""
        return not any(self.states.get(state) for state in UNSENT)
