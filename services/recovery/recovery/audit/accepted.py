"""The audit's decisions, from values alone: which records must be found in Postgres."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from courant import ids
from courant.contracts import Malformed, Seal, decode_job
from courant.topics import INBOX, JOBS, Lane, Partition, Positions, group

GROUPS = {
    **{topic: group("saver", INBOX, lane) for lane in Lane for topic in INBOX.topics(lane)},
    JOBS.name: group("job-runner", JOBS),
}
"""The topics whose records a client was answered 201 for, each with the group that folds it."""

ID_BYTES = 16
UPLOAD_TAKES = timedelta(hours=1)
"""How long before its seal the first chunk of an upload may be in the log."""


class Accepted(NamedTuple):
    """One record that a client was answered 201 for."""

    partition: Partition
    offset: int
    id: UUID  # of the notification; of the job, in `jobs`
    at: datetime  # when the broker wrote it

    @property
    def origin(self) -> str:
        """The record's name in the header of its dead letter."""
        return f"{self.partition.topic}/{self.partition.number}/{self.offset}"


def accepted(
    partition: Partition, offset: int, key: bytes, value: bytes, at: datetime, oldest_day: int
) -> Accepted | None:
    """Return what this record accepts, or None if nothing of it must be in Postgres.

    - A record of `inbox` has its id as its key. With another key it is a dead letter.
    - In `jobs` only the seal makes a job.
    - A row whose day is before `oldest_day` may have been dropped.
    """
    if partition.topic != JOBS.name:
        if len(key) != ID_BYTES or ids.day_of(id := UUID(bytes=key)) < oldest_day:
            return None
        return Accepted(partition, offset, id, at)
    try:
        record = decode_job(value)
    except Malformed:
        return None
    return Accepted(partition, offset, record.job_id, at) if isinstance(record, Seal) else None


def folded(limits: Positions, committed: Positions) -> dict[Partition, int]:
    """Return before which offsets every record has left all that it leaves.

    `limits` are Postgres's positions. The saver commits an offset to Kafka only after the record's
    dead letter is durable, so both must have passed a record.
    """
    return {each: min(end, limits.get(each, 0)) for each, end in committed.items()}


def since_text(missing: Iterable[Accepted]) -> str:
    """Return the `--since` of the `courant restore` that brings all of these back."""
    times = (
        each.at - UPLOAD_TAKES if each.partition.topic == JOBS.name else each.at for each in missing
    )
    return f"{min(times):%Y-%m-%dT%H:%M:%SZ}"


def kept(window: Iterable[Accepted], unsent: Collection[UUID], horizon: datetime) -> list[Accepted]:
    """Return which records are looked for again: the young ones, and those not sent yet."""
    return [each for each in window if each.at > horizon or each.id in unsent]


def places(known: Positions, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """Return a place for each partition: where none is known, the log's start."""
    return {each: known.get(each, 0) for each in partitions}


def held_back(followed: Positions, missing: Iterable[Accepted]) -> dict[Partition, int]:
    """Return the places to keep for the next process: it must find again what is missing now."""
    kept = dict(followed)
    for each in missing:
        if each.partition in kept:
            kept[each.partition] = min(kept[each.partition], each.offset)
    return kept
