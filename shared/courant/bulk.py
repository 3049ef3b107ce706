"""Records of bulk uploads: packed chunks of rows, their digest, orders and commands.

Rows are packed small and encrypted. A seal is checked by the digest over all chunks of its upload.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from courant.contracts import (
    ENCODE,
    Chunk,
    ChunkOrder,
    Command,
    JobCommand,
    JobRow,
    Malformed,
    decoder,
    read,
)
from courant.crypto import KeyRing
from courant.records import Outgoing
from courant.topics import CHUNKS, JOBS

ROWS_MAX = 500
BYTES_MAX = 512 * 1024  # of rows as JSON, before they are packed; a single row may have more
PACKED_MAX = 64 * 1024 * 1024
"""Of what a chunk unpacks to: far beyond any that was packed here."""
LEVEL = 1  # the fastest; the sealed text cannot be packed later


def pack(ring: KeyRing, upload_id: UUID, number: int, first: int, rows: Sequence[JobRow]) -> Chunk:
    """Pack rows and seal them: they open only as this chunk of this upload."""
    packed = zlib.compress(ENCODE(rows), LEVEL)
    sealed = ring.encrypt(packed, owner=_owner(upload_id, number))
    return Chunk(upload_id=upload_id, number=number, first=first, rows=len(rows), sealed=sealed)


def unpack(ring: KeyRing, upload_id: UUID, number: int, sealed: bytes) -> list[JobRow]:
    """Open a chunk's rows; raises Unsealable, Malformed."""
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(ring.decrypt(sealed, _owner(upload_id, number)), PACKED_MAX)
    except zlib.error:
        raise Malformed("rows: cannot be unpacked") from None
    if not unpacking.eof:
        raise Malformed("rows: more than a chunk has")
    return read(decoder(list[JobRow]), plain)


def fingerprint(sealed: bytes) -> bytes:
    """Give what a chunk adds to its upload's digest."""
    return sha256(sealed).digest()


def digest(fingerprints: Iterable[bytes]) -> bytes:
    """Give an upload's digest, from its chunks' fingerprints in their order."""
    return sha256(b"".join(fingerprints)).digest()


def chunk_order(job_id: UUID, number: int) -> Outgoing:
    """Order a chunk to be turned into notifications. A second order is harmless."""
    record = ChunkOrder(job_id=job_id, number=number)
    # By chunk, so that all runners share a job.
    return Outgoing(CHUNKS.name, job_id.bytes + number.to_bytes(4), record.encode())


def job_command(job_id: UUID, command: Command, at: datetime) -> Outgoing:
    """Say what is wanted of a job. Said twice it is harmless."""
    record = JobCommand(job_id=job_id, command=command, at=at)
    return Outgoing(JOBS.name, job_id.bytes, record.encode())


def _owner(upload_id: UUID, number: int) -> bytes:
    return upload_id.bytes + number.to_bytes(4)


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """A chunk of a job, without what it holds."""

    job_id: UUID
    upload_id: UUID
    number: int
    first: int  # of its rows
    rows: int


@dataclass(frozen=True, slots=True)
class StoredRows:
    """How many of a chunk's rows are there, and how many of these wait for a first attempt."""

    there: int
    waiting: int
