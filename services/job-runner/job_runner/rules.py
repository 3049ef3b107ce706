"""What job-runner decides, given values alone. No clock, no database, no network."""

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
    decode_job,
)
from courant.crypto import KeyRing, Undecryptable
from courant.records import Dead, Keep, Outgoing, Record, Verdict
from courant.topics import INBOX, Lane
from job_runner.rows import DueJob, Job

ORDERED_MIN = 4
"""So many chunks may be out before it is known how fast they leave."""


def read_job(ring: KeyRing, record: Record) -> Verdict[JobRecord]:
    """Keep what belongs to a job; a chunk only if it opens: else its job would stand still."""
    try:
        found = decode_job(record.value)
        if isinstance(found, Chunk):
            rows = bulk.unpack(ring, found.upload_id, found.number, found.sealed)
            if len(rows) != found.rows:
                return Dead(record, "rows: not as many as the chunk says")
    except (Malformed, Undecryptable) as error:
        return Dead(record, str(error))
    if isinstance(found, JobCommand):
        # Of several ingests' clocks none decides which wish is the later one, but the broker's.
        found = msgspec.structs.replace(found, at=record.timestamp)
    return Keep(record, found)


def read_order(record: Record) -> Verdict[ChunkOrder]:
    """Keep an order."""
    try:
        return Keep(record, ChunkOrder.decode(record.value))
    except Malformed as error:
        return Dead(record, str(error))


def notification(job: Job, row: JobRow, number: int, ring: KeyRing, now: datetime) -> Outgoing:
    """Turn a row into what is put into the inbox: the same id, however often it is done."""
    id = ids.of_row(job.id, number)
    content = ENCODE(Content(to=row.to, personalisation=row.personalisation))
    record = Notification(
        id=id,
        service_id=job.service_id,
        key_id=job.key_id,
        # What is only simulated goes the way of the test keys: no provider hears of it.
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
        # Not the upload's time: what waits for its turn longer than notifications may is not late.
        accepted_at=now,
    )
    return Outgoing(INBOX.topic(job.channel, Lane.BULK), id.bytes, record.encode())


def is_settled(rows: int, stored: StoredRows) -> bool:
    """Tell whether a chunk has left its lane: nine of ten rows are there and wait no more.

    The tenth may be repeated, be a dead letter, or be healed by a sweep; nobody need wait for that.
    """
    return (rows - stored.there + stored.waiting) * 10 <= rows


def orders_allowed(out: int, oldest_seconds: float, settled: int, lag_seconds: float) -> int | None:
    """Tell for how many more chunks of a channel orders may be given; None: for all.

    `out` have orders and are not settled, the oldest order is `oldest_seconds` old, and `settled`
    were settled in the last `lag_seconds`. What is out is what is handled in half of that time: a
    job that is cancelled has little under way, and Postgres holds no million rows that wait. With
    as much as is handled in all of it the lane stood at its limit, then ran empty, by turns.
    """
    if not lag_seconds:
        return None
    if oldest_seconds >= lag_seconds:
        return 0
    return max(0, max(ORDERED_MIN, settled // 2) - out)


def share_orders(due: Sequence[DueJob], out: Mapping[UUID, int], room: int | None) -> Counter[UUID]:
    """Tell for how many chunks of each job orders are given now; services take turns.

    The next turn is that service's which has the fewest chunks out; `out` tells how many that are.
    Within a service the first job comes first: `due` is in that order.
    """
    given: Counter[UUID] = Counter()
    waiting: dict[UUID, list[DueJob]] = {}
    for each in due:
        if each.left:
            waiting.setdefault(each.service_id, []).append(each)
    under_way = Counter({service: out.get(service, 0) for service in waiting})
    while waiting and (room is None or given.total() < room):
        service = min(waiting, key=lambda each: under_way[each])
        job = waiting[service][0]
        given[job.id] += 1
        under_way[service] += 1
        if given[job.id] == job.left:
            del waiting[service][0]
            if not waiting[service]:
                del waiting[service]
    return given


def is_whole(fingerprints: Iterable[bytes], expected: int, digest: bytes) -> bool:
    """Tell whether these are the chunks that the seal was set on."""
    found = list(fingerprints)
    return len(found) == expected and bulk.digest(found) == digest
