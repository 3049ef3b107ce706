"""Accepts jobs: many notifications of one template, as JSON or as a file that is streamed.

The rows go into the log in chunks. They become a job with the seal, which is written only when all
rows are checked and all chunks acknowledged. The 201 follows the seal's acknowledgement.
Job-runner does everything after that.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b

from courant import clock
from courant.contracts import ENCODE, JobRow
from courant.crypto import keyed_digest
from courant.errors import Unavailable
from ingest.accept import idempotency, rules
from ingest.accept.handle import AcceptParts
from ingest.accept.idempotency import IdempotencyKey
from ingest.bulk import forms
from ingest.bulk.chunk_writer import ChunkWriter
from ingest.bulk.csv_stream import CsvStream, UnreadableRow
from ingest.bulk.plan import Plan, Planner
from ingest.bulk.rows import RowCounts, RowReader
from ingest.callers.auth import Caller
from ingest.http.admission import Pace, Slots
from ingest.http.answers import NOT_ACKNOWLEDGED, Answer, bad_request, unavailable
from ingest.http.asgi import HttpRequest
from ingest.http.multipart import MultipartUpload
from ingest.jobs.handle import Jobs
from ingest.jobs.views import JobView

DISCARD_SECONDS = 10.0
"""How long the rest of a refused file is read: a client that still sends reads no answer."""
FIELDS = frozenset(field.name for field in forms.JOB_FIELDS)
TEMPLATE_AFTER_FILE = bad_request("template_id has to come before the file")
TOO_MANY = unavailable("Too many files are being taken, try again")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many rows one request may have, and how many requests are read at once."""

    bulk_rows: int
    job_rows: int
    uploads: int  # at once, JSON and files together


class Bulk:
    """Answers requests to send many notifications."""

    def __init__(self, parts: AcceptParts, jobs: Jobs, job_view: JobView, bounds: Bounds) -> None:
        self._parts = parts
        self._jobs = jobs
        self._bounds = bounds
        self._slots = Slots(bounds.uploads, TOO_MANY)
        self._planner = Planner(parts, job_view)
        self._fields = forms.bulk_fields(bounds.bulk_rows)

    async def bulk(self, request: HttpRequest, caller: Caller) -> Answer:
        """Accept the rows in a JSON body, or return the refusal."""
        with self._slots.acquire(caller.service.id) as pace:
            key = self._key(request, caller)
            if isinstance(key, Answer):
                return key
            text = await request.body()
            body, now = forms.decode_object(request.header(b"content-type"), text), clock.now()
            if isinstance(body, Answer):
                return body
            body_hash = None
            if key:
                hash_key = self._parts.hash_key
                body_hash = await asyncio.to_thread(idempotency.body_hash, hash_key, text)
                if first := await self._jobs.first(caller.service.id, key.hash):
                    return self._planner.replay(caller, first, body_hash)
                if self._parts.recent_keys.is_reused(key, body_hash, now):
                    return idempotency.REUSED
            form = rules.check_active(caller.service) or forms.read_form(self._fields, body, now)
            if isinstance(form, Answer):
                return form
            if (form.rows is None) == (not form.csv):
                return forms.ONE_OF_TWO
            plan = self._planner.plan(caller, form, now)
            if isinstance(plan, Answer):
                return plan
            return await self._accept_rows(plan, key, body_hash, pace)

    async def _accept_rows(
        self, plan: Plan, key: IdempotencyKey | None, body_hash: bytes | None, pace: Pace
    ) -> Answer:
        reader = self._planner.row_reader(plan, self._bounds.bulk_rows)
        rows: list[JobRow] = []
        try:
            for cells in forms.row_cells(plan.form):
                row = cells if isinstance(cells, Answer) else reader.read(cells)
                if isinstance(row, Answer):
                    return row
                if row:
                    rows.append(row)
                if pace.must_rest:
                    await pace.rest()
        except UnreadableRow as error:
            return reader.unreadable(error)
        if refusal := reader.finish() or self._planner.check_rows(plan, reader.counts):
            return refusal
        try:
            async with self._chunk_writer() as writer:
                for row in rows:
                    if writer.add(row):
                        await writer.write_chunk()
                    if pace.must_rest:
                        await pace.rest()
                return await self._finish(plan, reader.counts, writer, key, body_hash)
        except Unavailable:
            return NOT_ACKNOWLEDGED

    async def job(self, request: HttpRequest, caller: Caller) -> Answer:
        """Accept the rows in a file, or return the refusal."""
        with self._slots.acquire(caller.service.id) as pace:
            key = self._key(request, caller)
            if isinstance(key, Answer):
                return key
            upload = MultipartUpload(request.header(b"content-type"), request, FIELDS)
            try:
                return await self._accept_file(upload, caller, key, pace)
            except Unavailable:
                return NOT_ACKNOWLEDGED
            finally:
                await upload.discard(DISCARD_SECONDS)

    async def _accept_file(
        self, upload: MultipartUpload, caller: Caller, key: IdempotencyKey | None, pace: Pace
    ) -> Answer:
        await upload.read_fields()
        now, values = clock.now(), upload.fields
        if upload.filename:
            values = {"name": upload.filename, **values}
        digest = keyed_digest(self._parts.hash_key) if key else None
        if key and digest:
            digest.update(ENCODE(sorted(values.items())))
            if first := await self._jobs.first(caller.service.id, key.hash):
                # The fields are not checked again: what was valid at first may not be by now.
                while block := await upload.next_block():
                    digest.update(block)
                return self._planner.replay(caller, first, digest.digest())
        if "template_id" not in values:
            return TEMPLATE_AFTER_FILE
        form = rules.check_active(caller.service) or forms.read_form(forms.JOB_FIELDS, values, now)
        plan = form if isinstance(form, Answer) else self._planner.plan(caller, form, now)
        if isinstance(plan, Answer):
            return plan
        reader = self._planner.row_reader(plan, self._bounds.job_rows)
        async with self._chunk_writer() as writer:
            try:
                async for rows in row_blocks(upload, digest):
                    if refusal := await write_rows(rows, reader, writer, pace):
                        return refusal
                    if reader.counts.decided:
                        break
                else:
                    if refusal := reader.finish():
                        return refusal
            except UnreadableRow as error:
                return reader.unreadable(error)
            if refusal := self._planner.check_rows(plan, reader.counts):
                return refusal
            body_hash = digest.digest() if digest else None
            return await self._finish(plan, reader.counts, writer, key, body_hash)

    async def _finish(
        self,
        plan: Plan,
        counts: RowCounts,
        writer: ChunkWriter,
        key: IdempotencyKey | None,
        body_hash: bytes | None,
    ) -> Answer:
        written = await writer.finish()
        # From here to the seal's write nothing is awaited, so that of two files with one key and
        # different rows only one gets its seal.
        if self._parts.recent_keys.is_reused(key, body_hash, plan.now):
            return idempotency.REUSED
        if refusal := self._planner.count_accepted(plan, counts):
            return refusal
        seal = self._planner.new_seal(plan, written, counts.rows, key, body_hash)
        await writer.write_seal(seal)
        return self._planner.answer(plan.caller, seal)

    def _key(self, request: HttpRequest, caller: Caller) -> IdempotencyKey | Answer | None:
        return idempotency.read_key(request, idempotency.JOB, caller, self._parts.hash_key)

    @asynccontextmanager
    async def _chunk_writer(self) -> AsyncIterator[ChunkWriter]:
        writer = ChunkWriter(self._parts.inbox, self._parts.key_ring)
        try:
            yield writer
        finally:
            await writer.close()


async def row_blocks(
    upload: MultipartUpload, digest: blake2b | None
) -> AsyncIterator[Iterator[list[str]]]:
    """Yield the file's rows block by block, and add each block to the digest.

    Raises AnsweredEarly. The yielded iterators raise UnreadableRow.
    """
    stream = CsvStream()
    while block := await upload.next_block():
        if digest:
            digest.update(block)
        stream.feed(block)
        yield stream.rows()
    stream.finish()
    yield stream.rows()


async def write_rows(
    rows: Iterator[list[str]], reader: RowReader, writer: ChunkWriter, pace: Pace
) -> Answer | None:
    """Read rows, and write them as long as the file is acceptable.

    Returns the refusal of a bad header, otherwise None. Raises Unavailable.
    """
    for cells in rows:
        row = reader.read(cells)
        if isinstance(row, Answer):
            return row
        if row and reader.counts.acceptable and writer.add(row):
            await writer.write_chunk()
        if pace.must_rest:
            await pace.rest()
    return None
