"""What is remembered of earlier requests: what came first under an Idempotency-Key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from courant.contracts import KeyType
from courant.topics import Channel


@dataclass(frozen=True, slots=True)
class FirstNotification:
    """What is stored under an Idempotency-Key: the notification that came first."""

    id: UUID
    body_hash: bytes
    template_version: int


@dataclass(frozen=True, slots=True)
class FirstJob:
    """What is stored under an Idempotency-Key: the job that came first."""

    id: UUID
    body_hash: bytes
    rows: int
    key_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: int
    channel: Channel
    sender_id: UUID | None
    name: bytes  # sealed
    accepted_at: datetime
    scheduled_for: datetime | None


class IdempotencyStore(Protocol):
    """Where earlier requests are remembered."""

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        """Give what came first under a key; None also where there is no answer in time."""

    async def first_job(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        """Give the job that came first under a key; None also without an answer in time."""
