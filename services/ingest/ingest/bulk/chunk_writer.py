"""An upload's rows on their way into the log: chunk by chunk, and at last the seal."""

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

UNDERWAY_MAX = 4
"""Chunks of one upload that nobody has acknowledged yet; the client waits for them with us."""


@dataclass(frozen=True, slots=True)
class Written:
    """An upload of which every chunk is acknowledged."""

    upload_id: UUID
    chunks: int
    digest: bytes


class ChunkWriter:
    """Writes one upload. Chunks that no seal follows expire."""

    def __init__(self, log: Inbox, ring: KeyRing) -> None:
        self._upload_id = uuid4()
        self._count = 0  # chunks
        self._log = log
        self._ring = ring
        self._fingerprints: list[bytes] = []
        self._first = 1  # of the rows that gather, counted in the file
        self._rows: list[JobRow] = []
        self._size = 0  # bytes of them, as JSON
        self._full: list[JobRow] = []
        self._underway: deque[asyncio.Future[None]] = deque()

    def take(self, row: JobRow) -> bool:
        """Take the next row; tells whether a chunk is full, which has to be written then."""
        size = len(ENCODE(row)) + 1
        if self._rows and self._size + size > bulk.BYTES_MAX:
            self._full = self._cut()
        self._rows.append(row)
        self._size += size
        if len(self._rows) == bulk.ROWS_MAX:
            self._full = self._full or self._cut()
        return bool(self._full)

    async def write(self) -> None:
        """Write the chunk that is full; raises Unavailable, also for an earlier one."""
        rows, self._full = self._full, []
        number, first = self._count, self._first
        self._count += 1
        self._first += len(rows)
        # Packing takes a millisecond or more, most of it without Python's lock.
        chunk = await asyncio.to_thread(bulk.pack, self._ring, self._upload_id, number, first, rows)
        self._fingerprints.append(bulk.fingerprint(chunk.sealed))
        while len(self._underway) >= UNDERWAY_MAX:
            await self._underway.popleft()
        record = Outgoing(JOBS.name, self._upload_id.bytes, chunk.encode())
        self._underway.append(asyncio.ensure_future(self._log.put(record)))

    async def finish(self) -> Written:
        """Write what is left and wait for all; raises Unavailable."""
        if self._rows:
            self._full = self._cut()
            await self.write()
        while self._underway:
            await self._underway.popleft()
        return Written(self._upload_id, self._count, bulk.digest(self._fingerprints))

    async def seal(self, seal: Seal) -> None:
        """Say that the upload is whole, which makes it a job; raises Unavailable."""
        await self._log.put(Outgoing(JOBS.name, self._upload_id.bytes, seal.encode()))

    async def leave(self) -> None:
        """Let go of what is still underway."""
        await asyncio.gather(*self._underway, return_exceptions=True)

    def _cut(self) -> list[JobRow]:
        rows, self._rows, self._size = self._rows, [], 0
        return rows
