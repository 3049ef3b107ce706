"""Ids begin with their time (UUIDv7, or UUIDv8 if derived), so that each day is a range of ids."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new(now: datetime) -> UUID:
    """Return a new id for this moment (UUIDv7, RFC 9562): 48 bits of milliseconds, then random."""
    return _id(_ms(now), os.urandom(10), version=7)


def derived(day: datetime, *parts: bytes) -> UUID:
    """Return the one id (UUIDv8) that these parts have on this UTC day.

    Its time is the start of the day, so that every process derives the same id.
    """
    return _id(_midnight_ms(day), _digest(parts)[:10], version=8)


def derived_in(day: datetime, *parts: bytes) -> UUID:
    """Return the one id (UUIDv8) that these parts have on this UTC day, at a moment of that day.

    The moment comes from the parts' hash, so that rows ordered by such ids spread over the day.
    """
    digest = _digest(parts)
    moment_ms = int.from_bytes(digest[10:18]) % DAY_MS
    return _id(_midnight_ms(day) + moment_ms, digest[:10], version=8)


def _midnight_ms(day: datetime) -> int:
    return _ms(day) // DAY_MS * DAY_MS


def _digest(parts: Iterable[bytes]) -> bytes:
    return sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).digest()


ROW_BITS, REST_BITS = 24, 50


def of_row(job: UUID, row: int) -> UUID:
    """Return the one id (UUIDv8) of a job's row: the job's time, then the row's number.

    So a job's rows are adjacent in every index, in the file's order.
    """
    rest = int.from_bytes(sha256(job.bytes + row.to_bytes(4)).digest()[:8]) >> 64 - REST_BITS
    return _row_id(job, row, rest)


def of_rows(job: UUID, first: int, last: int) -> tuple[UUID, UUID]:
    """Return the lowest and the highest id that these rows can have. Others may lie between."""
    return _row_id(job, first, 0), _row_id(job, last, (1 << REST_BITS) - 1)


def _row_id(job: UUID, row: int, rest: int) -> UUID:
    # A UUID has its variant inside of these 74 bits: the upper 12 go before it, the others after.
    bits = row << REST_BITS | rest
    tail = bits >> 62 << 64 | bits & (1 << 62) - 1
    return _id(job.int >> 80, tail.to_bytes(10), version=8)


def _id(ms: int, tail: bytes, version: int) -> UUID:
    low = int.from_bytes(tail) & ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=ms << 80 | low | version << 76 | 0x2 << 62)


def _ms(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)


def time_of(id: UUID) -> datetime | None:
    """Return the time in an id; None for an id without one (a UUIDv4, or a time past `MS_MAX`)."""
    if id.version not in {7, 8} or id.int >> 80 > MS_MAX:
        return None
    return EPOCH + timedelta(milliseconds=id.int >> 80)


MS_MAX = 253_402_300_799_999
"""The last millisecond that a datetime can hold."""


def day_of(id: UUID) -> int:
    """Return the day of an id, counted from 1970-01-01 UTC.

    Any UUID has such a day. For one that holds no time it means nothing.
    """
    return (id.int >> 80) // DAY_MS


def first_of(day: int) -> UUID:
    """Return the lowest id that a day can have."""
    return UUID(int=day * DAY_MS << 80)


def day_at(time: datetime) -> int:
    """Return the day of a time, counted from 1970-01-01 UTC."""
    return (time - EPOCH).days


SENT_DAYS_MAX = 8
"""How many days before its receipt a message may have its id: the id has the day of acceptance, a
schedule may be 4 days ahead, and a carrier may take 3 days."""


def oldest_sent(receipts: Iterable[datetime]) -> UUID:
    """Return the lowest id that a message can have whose receipt came at one of these times."""
    return first_of(min(map(day_at, receipts)) - SENT_DAYS_MAX)
