"""The Idempotency-Key: reads and hashes it, and finds the first request that used it."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from courant.crypto import keyed_hash
from ingest.http.answers import Answer, bad_request, error_answer
from ingest.http.asgi import HttpRequest

KEY_MAX = 255  # characters
REPLAYED = ((b"idempotency-replayed", b"true"),)
REUSED = error_answer(
    409, "ConflictError", "Idempotency-Key has been used with another body in the last 48 hours"
)
INVALID_KEY = bad_request(f"Idempotency-Key must have 1 to {KEY_MAX} characters")
# The use is part of the key's hash, so that a job is never the answer to a notification.
NOTIFICATION, JOB = b"idempotency", b"idempotency-job"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's Idempotency-Key, and the keyed hash that is stored instead of it."""

    text: bytes
    hash: bytes


def read_key(
    request: HttpRequest, use: bytes, service_id: UUID, hash_key: bytes
) -> IdempotencyKey | Answer | None:
    """Return the request's key, None without one, or the answer that rejects its length."""
    header = request.headers.get(b"idempotency-key")
    if header is None:
        return None
    if not 1 <= len(header) <= KEY_MAX:
        return INVALID_KEY
    text = header.decode("latin-1").encode()
    return IdempotencyKey(text, keyed_hash(hash_key, use, service_id.bytes, text))


def body_hash(hash_key: bytes, body: bytes) -> bytes:
    """Return a keyed hash of the body, which shows whether a repeated request is the same."""
    return keyed_hash(hash_key, b"body", body)


@dataclass(frozen=True, slots=True)
class FirstNotification:
    """The notification of the first request with an Idempotency-Key, as it is stored."""

    id: UUID
    body_hash: bytes
    template_version: int


class IdempotencyStore(Protocol):
    """Finds earlier notifications by their Idempotency-Key."""

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        """Return the first notification with a key. None may also mean no answer in time."""
