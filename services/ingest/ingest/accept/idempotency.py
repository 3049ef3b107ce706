"""The Idempotency-Key: reads and hashes it, and finds the first request that used it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from courant.crypto import keyed_hash
from courant.idempotency import KEPT
from ingest.callers.auth import Caller
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
REMEMBERED_MAX = 10_000
"""Requests that a process remembers: more than it can have in flight. About 5 MB."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The keyed hash of a client's Idempotency-Key. The key itself is not kept."""

    hash: bytes


def read_key(
    request: HttpRequest, use: bytes, caller: Caller, hash_key: bytes
) -> IdempotencyKey | Answer | None:
    """Return the request's key, None without one, or the answer that rejects its length.

    The type of the API key is part of it, because what was sent with a test key was not sent: the
    live request with the same Idempotency-Key is another one. The API key itself is not, because a
    client that rotates its API key repeats the same request with the new one.
    """
    header = request.headers.get(b"idempotency-key")
    if header is None:
        return None
    if not 1 <= len(header) <= KEY_MAX:
        return INVALID_KEY
    text = header.decode("latin-1").encode()
    of_caller = caller.service.id.bytes, caller.key.type.encode()
    return IdempotencyKey(keyed_hash(hash_key, use, *of_caller, text))


def body_hash(hash_key: bytes, body: bytes) -> bytes:
    """Return a keyed hash of the body, which shows whether a repeated request is the same."""
    return keyed_hash(hash_key, b"body", body)


@dataclass(frozen=True, slots=True)
class FirstNotification:
    """The notification of the first request with an Idempotency-Key, as it is stored."""

    id: UUID
    body_hash: bytes
    template_version: int


@dataclass(frozen=True, slots=True)
class _Accepted:
    id: UUID
    body_hash: bytes
    at: datetime


class RecentKeys:
    """The requests with a key that this process lately handed to the log, or is handing over now.

    Postgres knows a key only once the saver or job-runner has stored its request. Until then this
    tells apart requests of one process that came with one key and different bodies.
    """

    def __init__(self) -> None:
        self._accepted: OrderedDict[bytes, _Accepted] = OrderedDict()

    def is_reused(self, key: IdempotencyKey | None, body_hash: bytes | None, now: datetime) -> bool:
        """Return whether the key came with another body in the last 48 hours."""
        known = self._known(key, now)
        return known is not None and known.body_hash != body_hash

    def id_of(
        self,
        key: IdempotencyKey,
        body_hash: bytes,
        now: datetime,
        derive: Callable[[datetime, bytes, bytes], UUID],
    ) -> UUID:
        """Return the id of a request.

        Every process derives the same id from the same key and body on one UTC day. A request that
        this process remembers keeps its id on the next day, too.
        """
        known = self._known(key, now)
        return known.id if known else derive(now, key.hash, body_hash)

    def remember(self, key: IdempotencyKey, body_hash: bytes, id: UUID, now: datetime) -> None:
        """Remember a request that is handed to the log next.

        Call this after `is_reused`, with no await between the two.
        """
        if self._known(key, now):
            return
        self._accepted.pop(key.hash, None)
        self._accepted[key.hash] = _Accepted(id, body_hash, now)
        if len(self._accepted) > REMEMBERED_MAX:
            self._accepted.popitem(last=False)

    def _known(self, key: IdempotencyKey | None, now: datetime) -> _Accepted | None:
        known = self._accepted.get(key.hash) if key else None
        return known if known and now - known.at < KEPT else None


class IdempotencyStore(Protocol):
    """Finds earlier notifications by their Idempotency-Key."""

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        """Return the first notification with a key. None may also mean no answer in time."""
