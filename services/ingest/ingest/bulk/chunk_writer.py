"""Writes an upload's rows to the log: chunk by chunk, and last the seal."""

import asyncio
from collections import deque
from dataclasses import dataclass
from uuid import UUID, uuid4

from courant import bulk
from courant.contracts import ENCODE, JobRow, Seal
from courant.crypto import KeyRing
from courant.kafka.async_producer import Inbox
from courant.records import Outgoing
from courant.topics import JOBS

UNACKNOWLEDGED_MAX = 4
"""Chunks of one upload that may wait for their acknowledgement. Then the client waits with us."""


@dataclass(frozen=True, slots=True)
class WrittenChunks:
    """The chunks of an upload, all of them acknowledged."""

    upload_id: UUID
    count: int
    digest: bytes


class ChunkWriter:
    """Writes one upload. Retention removes chunks that no seal follows."""

    def __init__(self, inbox: Inbox, key_ring: KeyRing) -> None:
        self._upload_id = uuid4()
        self._count = 0  # chunks so far
        self._inbox = inbox
        self._key_ring = key_ring
        self._fingerprints: list[bytes] = []
        self._first = 1  # the number in the file of the next chunk's first row
        self._rows: list[JobRow] = []
        self._size_bytes = 0  # of `_rows` as JSON
        self._full_chunk: list[JobRow] = []
        self._unacknowledged: deque[asyncio.Future[None]] = deque()

    def add(self, row: JobRow) -> bool:
        """Add the next row. Returns whether a chunk is full and has to be written now."""
        size_bytes = len(ENCODE(row)) + 1
        if self._rows and self._size_bytes + size_bytes > bulk.BYTES_MAX:
            self._full_chunk = self._cut()
        self._rows.append(row)
        self._size_bytes += size_bytes
        if len(self._rows) == bulk.ROWS_MAX:
            self._full_chunk = self._full_chunk or self._cut()
        return bool(self._full_chunk)

    async def write_chunk(self) -> None:
        """Write the full chunk. Raises Unavailable, also if an earlier chunk failed."""
        rows, self._full_chunk = self._full_chunk, []
        number, first = self._count, self._first
        self._count += 1
        self._first += len(rows)
        # Packing takes a millisecond or more, and for most of it Python's lock is free.
        chunk = await asyncio.to_thread(
            bulk.pack, self._key_ring, self._upload_id, number, first, rows
        )
        self._fingerprints.append(bulk.fingerprint(chunk.sealed))
        while len(self._unacknowledged) >= UNACKNOWLEDGED_MAX:
            await self._unacknowledged.popleft()
        record = Outgoing(JOBS.name, self._upload_id.bytes, chunk.encode())
        self._unacknowledged.append(asyncio.ensure_future(self._inbox.put(record)))

    async def finish(self) -> WrittenChunks:
        """Write the remaining rows and wait for all acknowledgements. Raises Unavailable."""
        if self._rows:
            self._full_chunk = self._cut()
            await self.write_chunk()
        while self._unacknowledged:
            await self._unacknowledged.popleft()
        return WrittenChunks(self._upload_id, self._count, bulk.digest(self._fingerprints))

    async def write_seal(self, seal: Seal) -> None:
        """Write the seal, which makes the upload a job. Raises Unavailable."""
        await self._inbox.put(Outgoing(JOBS.name, self._upload_id.bytes, seal.encode()))

    async def close(self) -> None:
        """Wait until no write is left, and ignore how each one ended."""
        await asyncio.gather(*self._unacknowledged, return_exceptions=True)

    def _cut(self) -> list[JobRow]:
        rows, self._rows, self._size_bytes = self._rows, [], 0
        return rows
