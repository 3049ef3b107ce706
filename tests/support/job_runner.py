"""Uploads as ingest writes them, for tests of what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from courant import bulk, ids
from courant.contracts import Chunk, Contract, JobCommand, JobRow, KeyType, Seal
from courant.crypto import KeyRing
from courant.records import Outgoing
from courant.topics import JOBS, Channel

RING = KeyRing({"1": b"k" * 32})


@dataclass(frozen=True)
class Upload:
    """An upload whole: its chunks, and the seal that makes it a job."""

    chunks: Sequence[Chunk]
    seal: Seal

    @property
    def job_id(self) -> UUID:
        return self.seal.job_id

    def outgoing(self) -> list[Outgoing]:
        """Return its records in their order."""
        return [written(each) for each in (*self.chunks, self.seal)]


def upload(rows: int, each: int = 3, ring: KeyRing = RING, **other: Any) -> Upload:
    """Make an upload of so many rows, `each` to a chunk; `other` is the seal's."""
    upload_id = uuid4()
    made = [
        bulk.pack(ring, upload_id, number, first, [row(n) for n in range(first, last + 1)])
        for number, first in enumerate(range(1, rows + 1, each))
        for last in [min(first + each - 1, rows)]
    ]
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "job_id": ids.new(now),
        "upload_id": upload_id,
        "chunks": len(made),
        "rows": rows,
        "digest": bulk.digest(bulk.fingerprint(chunk.sealed) for chunk in made),
        "service_id": UUID(int=7),
        "key_id": UUID(int=8),
        "key_type": KeyType.NORMAL,
        "template_id": UUID(int=9),
        "template_version": 3,
        "channel": Channel.EMAIL,
        "name": b"sealed",
        "accepted_at": now,
        **other,
    }
    return Upload(made, Seal(**values))


def row(number: int) -> JobRow:
    """Make the row of this number in the file."""
    return JobRow(
        to=f"row-{number}@example.com",
        recipient_hash=number.to_bytes(16),
        personalisation={"name": f"Row {number}"},
        reference=f"ref-{number}",
    )


def written(record: Contract) -> Outgoing:
    """Return a record as ingest writes it."""
    if isinstance(record, JobCommand):
        return Outgoing(JOBS.name, record.job_id.bytes, record.encode())
    assert isinstance(record, Chunk | Seal)
    return Outgoing(JOBS.name, record.upload_id.bytes, record.encode())
