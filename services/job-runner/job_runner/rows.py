"""What job-runner's store reads: jobs, chunks that were ordered, chunks that wait."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from courant.bulk import ChunkRef
from courant.contracts import (
    KeyType,
)
from courant.topics import Channel


@dataclass(frozen=True, slots=True)
class Job:
    """What its notifications have in common."""

    id: UUID
    service_id: UUID
    key_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: int
    channel: Channel
    sender_id: UUID | None


@dataclass(frozen=True, slots=True)
class DueJob:
    """A job that has chunks to give orders for."""

    id: UUID
    service_id: UUID
    left: int  # chunks without an order


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk whose rows are not all stored yet, with its job."""

    job: Job
    upload_id: UUID
    first: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class OrderedChunk:
    """A chunk that has its order, and is not settled or lacks rows."""

    chunk: ChunkRef
    channel: Channel
    service_id: UUID
    issued_at: datetime
    in_lane: bool  # it counts among what the lane has to do


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A due job of which some chunk has no order yet."""

    id: UUID
    upload_id: UUID
    service_id: UUID
    channel: Channel
    chunks: int  # that its seal tells of
    digest: bytes
    started: bool
    left: int
