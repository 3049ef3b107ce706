"""Job-runner's decisions, from values alone: no clock, no database, no network."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from courant import bulk, ids
from courant.bulk import StoredRows
from courant.contracts import (
    ENCODE,
    Chunk,
    ChunkOrder,
    Content,
    JobCommand,
    JobRecord,
    JobRow,
    KeyType,
    Malformed,
    Notification,
    Seal,
    decode_job,
)
from courant.crypto import KeyMissing, KeyRing, Undecryptable
from courant.records import Dead, Keep, Outgoing, Record, Verdict
from courant.topics import INBOX, JOBS, Lane
from job_runner.rows import DueJob, Job

ORDERED_MIN = 4
"""Chunks of a channel that may be ordered before it is known how fast the lane takes them."""


def read_job(ring: KeyRing, record: Record) -> Verdict[JobRecord]:
    """Keep a job's record, a chunk only if it decrypts: otherwise its job would never finish.

    A chunk whose key is missing here is kept: its job goes on once the key is there.
    """
    try:
        job_record = decode_job(record.value)
        if isinstance(job_record, Chunk) and not has_its_rows(ring, job_record):
            return Dead(record, "rows: not as many as the chunk says")
    except (Malformed, Undecryptable) as error:
        return Dead(record, str(error))
    if isinstance(job_record, JobCommand):
        # The broker's time decides which command is later, because ingests' clocks may differ.
        job_record = msgspec.structs.replace(job_record, at=record.timestamp)
    return Keep(record, job_record)


def has_its_rows(ring: KeyRing, chunk: Chunk) -> bool:
    """Return whether a chunk has as many rows as it says; raises Undecryptable, Malformed."""
    try:
        return len(bulk.unpack(ring, chunk.upload_id, chunk.number, chunk.sealed)) == chunk.rows
    except KeyMissing:
        return True  # so far as is known


def ordinary(job_record: JobRecord) -> JobRecord:
    """Return an ordinary record of the same kind: with no value of its client's."""
    match job_record:
        case Chunk():
            return msgspec.structs.replace(job_record, sealed=b"x")
        case Seal():
            key = job_record.idempotency_key and bytes(32)
            return msgspec.structs.replace(job_record, name=b"x", idempotency_key=key)
    return job_record


def sealed_again(seal: Seal) -> Outgoing:
    """Return the record that says which of two jobs with one key counts."""
    return Outgoing(JOBS.name, seal.upload_id.bytes, seal.encode())


def read_order(record: Record) -> Verdict[ChunkOrder]:
    """Keep an order for a chunk."""
    try:
        return Keep(record, ChunkOrder.decode(record.value))
    except Malformed as error:
        return Dead(record, str(error))


def notification(job: Job, row: JobRow, number: int, ring: KeyRing, now: datetime) -> Outgoing:
    """Return the inbox record of a row. Its id is the same each time."""
    id = ids.of_row(job.id, number)
    content = ENCODE(Content(to=row.to, personalisation=row.personalisation))
    record = Notification(
        id=id,
        service_id=job.service_id,
        key_id=job.key_id,
        # A simulated recipient is handled as with a test key: no provider is called.
        key_type=KeyType.TEST if row.simulated else job.key_type,
        template_id=job.template_id,
        template_version=job.template_version,
        channel=job.channel,
        lane=Lane.BULK,
        job_id=job.id,
        job_row=number,
        reference=row.reference,
        sender_id=job.sender_id,
        recipient_hash=row.recipient_hash,
        sealed=ring.encrypt(content, owner=id.bytes),
        # Not the upload's time: a job may wait for its turn for longer than a notification may be
        # old before recovery expires it.
        accepted_at=now,
    )
    return Outgoing(INBOX.topic(job.channel, Lane.BULK), id.bytes, record.encode())


def is_settled(rows: int, stored: StoredRows) -> bool:
    """Return whether a chunk has left its lane: 90 % of its rows are stored and past waiting.

    The other rows may be retried, be dead letters, or be repaired by a sweep; the lane's next
    chunks need not wait for them.
    """
    return (rows - stored.there + stored.waiting) * 10 <= rows


def orders_allowed(out: int, oldest_seconds: float, settled: int, lag_seconds: float) -> int | None:
    """Return how many more chunks of a channel may be ordered now; None means all of them.

    `out` chunks are ordered and not settled, the oldest order is `oldest_seconds` old, and
    `settled` chunks were settled in the last `lag_seconds`. As many chunks may be ordered as the
    lane settles in half of that time, so that a cancelled job has little under way and Postgres
    does not hold a million waiting rows. With the whole time, the lane alternated between its limit
    and idleness (seen in make bench).
    """
    if not lag_seconds:
        return None
    if oldest_seconds >= lag_seconds:
        return 0
    return max(0, max(ORDERED_MIN, settled // 2) - out)


def share_orders(due: Sequence[DueJob], out: Mapping[UUID, int], room: int | None) -> Counter[UUID]:
    """Return for each job how many of its chunks are ordered now; services take turns.

    The next turn goes to the service with the fewest ordered chunks; `out` counts them by service.
    Within a service the first job in `due` comes first. `room` is the limit for all of them.
    """
    orders: Counter[UUID] = Counter()
    waiting: dict[UUID, list[DueJob]] = {}
    for each in due:
        if each.left:
            waiting.setdefault(each.service_id, []).append(each)
    under_way = Counter({service: out.get(service, 0) for service in waiting})
    while waiting and (room is None or orders.total() < room):
        service = min(waiting, key=lambda each: under_way[each])
        job = waiting[service][0]
        orders[job.id] += 1
        under_way[service] += 1
        if orders[job.id] == job.left:
            del waiting[service][0]
            if not waiting[service]:
                del waiting[service]
    return orders


def is_whole(fingerprints: Iterable[bytes], expected: int, digest: bytes) -> bool:
    """Return whether these are exactly the chunks that the seal states."""
    found = list(fingerprints)
    return len(found) == expected and bulk.digest(found) == digest
