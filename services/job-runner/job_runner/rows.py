"""The rows that job-runner's store returns: jobs, and chunks with or without an order."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from courant.bulk import ChunkRef
from courant.contracts import KeyType
from courant.topics import Channel


@dataclass(frozen=True, slots=True)
class Job:
    """The fields that all notifications of a job share."""

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
    """A due job that has chunks without an order."""

    id: UUID
    service_id: UUID
    left: int  # chunks without an order


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk and its job, while not all rows of the chunk are stored as notifications."""

    job: Job
    upload_id: UUID
    first: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class OrderedChunk:
    """A chunk that has been ordered, while it is unsettled or some of its rows are missing."""

    chunk: ChunkRef
    channel: Channel
    service_id: UUID
    issued_at: datetime
    in_lane: bool  # counts toward the lane's backlog


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A due job, while some of its chunks have no order."""

    id: UUID
    upload_id: UUID
    service_id: UUID
    channel: Channel
    chunks: int  # the number that the seal states
    digest: bytes
    started: bool
    left: int
