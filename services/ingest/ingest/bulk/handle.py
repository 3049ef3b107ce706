"""Accepting jobs: many notifications of one template, as JSON or as a file that is never held.

The rows go into the log in chunks, and are a job once the seal is there, which is written only
when all of them are checked and acknowledged; 201 is said then. What comes after is job-runner's.
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
FIELDS = frozenset(field.name for field in forms.JOB_FIELDS)
BEFORE_FILE = bad_request("template_id has to come before the file")
TOO_MANY = unavailable("Too many files are being taken, try again")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is taken."""

    bulk_rows: int
    job_rows: int
    uploads: int  # at once, of both kinds


class Bulk:
    """Takes requests to send many notifications."""

    def __init__(self, parts: AcceptParts, jobs: Jobs, job_view: JobView, bounds: Bounds) -> None:
        self._parts = parts
        self._jobs = jobs
        self._bounds = bounds
        self._places = Slots(bounds.uploads, TOO_MANY)
        self._planner = Planner(parts, job_view)
        self._fields = forms.bulk_fields(bounds.bulk_rows)

    async def bulk(self, call: HttpRequest, caller: Caller) -> Answer:
        """Accept the rows in a JSON body, or say why not."""
        with self._places.acquire(caller.service.id) as pace:
            key = self._key(call, caller)
            if isinstance(key, Answer):
                return key
            body = await call.body()
            given, now = forms.decoded(call.header(b"content-type"), body), clock.now()
            if isinstance(given, Answer):
                return given
            body_hash = None
            if key:
                hash_key = self._parts.hash_key
                body_hash = await asyncio.to_thread(idempotency.body_hash, hash_key, body)
                if first := await self._jobs.first(caller.service.id, key.hash):
                    return self._planner.again(caller, first, body_hash)
            form = rules.check_active(caller.service) or forms.read(self._fields, given, now)
            if isinstance(form, Answer):
                return form
            if (form.rows is None) == (not form.csv):
                return forms.ONE_OF_TWO
            plan = self._planner.plan(caller, form, now)
            if isinstance(plan, Answer):
                return plan
            return await self._bulk(plan, key, body_hash, pace)

    async def _bulk(
        self, plan: Plan, key: IdempotencyKey | None, body_hash: bytes | None, pace: Pace
    ) -> Answer:
        intake = self._planner.intake(plan, self._bounds.bulk_rows)
        rows: list[JobRow] = []
        try:
            for cells in forms.cells(plan.form):
                row = cells if isinstance(cells, Answer) else intake.take(cells)
                if isinstance(row, Answer):
                    return row
                if row:
                    rows.append(row)
                if pace.must_rest:
                    await pace.rest()
        except UnreadableRow as found:
            return intake.unreadable(found)
        if refusal := intake.end() or self._planner.refusal(plan, intake.tally):
            return refusal
        try:
            async with self._writing() as writing:
                for row in rows:
                    if writing.take(row):
                        await writing.write()
                    if pace.must_rest:
                        await pace.rest()
                return await self._sealed(plan, intake.tally, writing, key, body_hash)
        except Unavailable:
            return NOT_ACKNOWLEDGED

    async def job(self, call: HttpRequest, caller: Caller) -> Answer:
        """Accept the rows in a file, or say why not."""
        with self._places.acquire(caller.service.id) as pace:
            key = self._key(call, caller)
            if isinstance(key, Answer):
                return key
            upload = MultipartUpload(call.header(b"content-type"), call, FIELDS)
            try:
                return await self._job(upload, caller, key, pace)
            except Unavailable:
                return NOT_ACKNOWLEDGED
            finally:
                # Who is still sending cannot hear an answer.
                await upload.discard(DISCARD_SECONDS)

    async def _job(
        self, upload: MultipartUpload, caller: Caller, key: IdempotencyKey | None, pace: Pace
    ) -> Answer:
        await upload.read_fields()
        now, given = clock.now(), upload.fields
        if upload.filename:
            given = {"name": upload.filename, **given}
        digest = keyed_digest(self._parts.hash_key) if key else None
        if key and digest:
            digest.update(ENCODE(sorted(given.items())))
            if first := await self._jobs.first(caller.service.id, key.hash):
                # By the time it was first asked: what was fit then may be unfit by now.
                while block := await upload.next_block():
                    digest.update(block)
                return self._planner.again(caller, first, digest.digest())
        if "template_id" not in given:
            return BEFORE_FILE
        form = rules.check_active(caller.service) or forms.read(forms.JOB_FIELDS, given, now)
        plan = form if isinstance(form, Answer) else self._planner.plan(caller, form, now)
        if isinstance(plan, Answer):
            return plan
        intake = self._planner.intake(plan, self._bounds.job_rows)
        async with self._writing() as writing:
            try:
                async for rows in blocks(upload, digest):
                    if refusal := await take(rows, intake, writing, pace):
                        return refusal
                    if intake.tally.decided:
                        break
                else:
                    if refusal := intake.end():
                        return refusal
            except UnreadableRow as found:
                return intake.unreadable(found)
            if refusal := self._planner.refusal(plan, intake.tally):
                return refusal
            body_hash = digest.digest() if digest else None
            return await self._sealed(plan, intake.tally, writing, key, body_hash)

    async def _sealed(
        self,
        plan: Plan,
        tally: RowCounts,
        writing: ChunkWriter,
        key: IdempotencyKey | None,
        body_hash: bytes | None,
    ) -> Answer:
        written = await writing.finish()
        if refusal := self._planner.count(plan, tally):
            return refusal
        seal = self._planner.seal(plan, written, tally.rows, key, body_hash)
        await writing.seal(seal)
        return self._planner.accepted(plan.caller, seal)

    def _key(self, call: HttpRequest, caller: Caller) -> IdempotencyKey | Answer | None:
        hash_key = self._parts.hash_key
        return idempotency.read_key(call, idempotency.JOB, caller.service.id, hash_key)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[ChunkWriter]:
        writing = ChunkWriter(self._parts.inbox, self._parts.key_ring)
        try:
            yield writing
        finally:
            await writing.leave()


async def blocks(
    upload: MultipartUpload, digest: blake2b | None
) -> AsyncIterator[Iterator[list[str]]]:
    """Yield the file's rows block by block; raises AnsweredEarly, and UnreadableRow inside."""
    lines = CsvStream()
    while block := await upload.next_block():
        if digest:
            digest.update(block)
        lines.feed(block)
        yield lines.rows()
    lines.end()
    yield lines.rows()


async def take(
    rows: Iterator[list[str]], intake: RowReader, writing: ChunkWriter, pace: Pace
) -> Answer | None:
    """Read rows, and write them as long as none is refused; return the refusal of a bad header.

    Raises Unavailable.
    """
    tally = intake.tally
    for cells in rows:
        row = intake.take(cells)
        if isinstance(row, Answer):
            return row
        if row and tally.faultless and writing.take(row):
            await writing.write()
        if pace.must_rest:
            await pace.rest()
    return None
