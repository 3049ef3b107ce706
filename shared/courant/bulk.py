"""Records of bulk uploads: packed chunks of rows, their digest, chunk orders and job commands.

Rows are compressed, then encrypted. A seal holds the digest of all chunks of its upload, so that
job-runner can check that it has them all.
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
BYTES_MAX = 512 * 1024  # of rows as JSON, before compression; a single row may exceed it
PACKED_MAX = 64 * 1024 * 1024
"""How many bytes a chunk may decompress to. No chunk that was packed here comes near it."""
LEVEL = 1  # zlib's fastest; rows must be compressed here, because encrypted text cannot be


def pack(ring: KeyRing, upload_id: UUID, number: int, first: int, rows: Sequence[JobRow]) -> Chunk:
    """Compress and encrypt rows. They can be decrypted only as this chunk of this upload."""
    packed = zlib.compress(ENCODE(rows), LEVEL)
    sealed = ring.encrypt(packed, owner=_owner(upload_id, number))
    return Chunk(upload_id=upload_id, number=number, first=first, rows=len(rows), sealed=sealed)


def unpack(ring: KeyRing, upload_id: UUID, number: int, sealed: bytes) -> list[JobRow]:
    """Decrypt and decompress a chunk's rows; raises Undecryptable, Malformed."""
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(ring.decrypt(sealed, _owner(upload_id, number)), PACKED_MAX)
    except zlib.error:
        raise Malformed("rows: cannot be unpacked") from None
    if not unpacking.eof:
        raise Malformed("rows: more than a chunk has")
    return read(decoder(list[JobRow]), plain)


def fingerprint(sealed: bytes) -> bytes:
    """Return the hash of one chunk, from which its upload's digest is computed."""
    return sha256(sealed).digest()


def digest(fingerprints: Iterable[bytes]) -> bytes:
    """Return an upload's digest, from the fingerprints of its chunks in order."""
    return sha256(b"".join(fingerprints)).digest()


def chunk_order(job_id: UUID, number: int) -> Outgoing:
    """Return the record that orders a chunk's rows to become notifications.

    A second order for the same chunk changes nothing.
    """
    record = ChunkOrder(job_id=job_id, number=number)
    # The key has the chunk's number, so that a job's chunks spread over all job-runners.
    return Outgoing(CHUNKS.name, job_id.bytes + number.to_bytes(4), record.encode())


def job_command(job_id: UUID, command: Command, at: datetime) -> Outgoing:
    """Return the record that pauses, resumes or cancels a job. A second one changes nothing."""
    record = JobCommand(job_id=job_id, command=command, at=at)
    return Outgoing(JOBS.name, job_id.bytes, record.encode())


def _owner(upload_id: UUID, number: int) -> bytes:
    return upload_id.bytes + number.to_bytes(4)


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """A chunk of a job, without its rows."""

    job_id: UUID
    upload_id: UUID
    number: int
    first: int  # number of its first row in the file
    rows: int


@dataclass(frozen=True, slots=True)
class StoredRows:
    """How many of a chunk's rows are stored, and how many of these wait for a first attempt."""

    there: int
    waiting: int
