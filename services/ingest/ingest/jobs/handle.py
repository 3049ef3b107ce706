"""Answers requests about jobs: lists, one job, commands, reports."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from courant import clock
from courant.bulk import job_command
from courant.contracts import Command
from courant.crypto import KeyRing
from courant.errors import Unavailable
from courant.kafka.async_producer import Inbox
from ingest.callers.auth import Caller
from ingest.http import fields
from ingest.http.admission import Slots
from ingest.http.answers import (
    NO_RESULT,
    NOT_ACKNOWLEDGED,
    Answer,
    json_answer,
    unavailable,
    validation_error,
)
from ingest.http.asgi import HttpRequest
from ingest.jobs import report, rules
from ingest.jobs.rows import FirstJob, Job, JobCounts
from ingest.jobs.store import RowRange
from ingest.jobs.views import JobView
from ingest.read import listing
from ingest.read.store import Missing

NOT_YET = unavailable("The job may be on its way, try again")
CANNOT_READ = unavailable("Jobs cannot be read now, try again")
TOO_MANY = unavailable("Too many reports are being written, try again")
REPORTS_MAX = 8
"""Reports that are written at once. Each holds up to a thousand rows in memory."""
LIST_SECONDS = 1.0
"""How long a list may take to check which of its jobs have finished."""
PATH = "/v2/jobs"
CSV = b"text/csv; charset=utf-8; header=present"


class Jobs(Protocol):
    """Stored jobs. Every read except `first` may raise Unavailable."""

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        """Return a caller's job."""

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        """Return the first job with an Idempotency-Key. None may also mean no answer in time."""

    async def page(self, caller: Caller, older_than: UUID | None) -> Sequence[Job]:
        """Return a page of a caller's jobs, newest first."""

    async def count_rows(self, job: Job) -> JobCounts:
        """Return the counts of a job's rows."""

    async def nothing_to_send(self, job: Job) -> bool:
        """Return whether no stored row of a job waits to be sent."""

    async def read_rows(
        self, job: Job, first: int, last: int, write: Callable[[RowRange], bytes]
    ) -> bytes:
        """Read rows of a job and return `write` of them."""


class JobEndpoints:
    """Answers requests about jobs, and writes commands for them to the log."""

    def __init__(self, store: Jobs, inbox: Inbox, view: JobView, key_ring: KeyRing) -> None:
        self._store = store
        self._inbox = inbox
        self._view = view
        self._key_ring = key_ring
        self._reports = Slots(REPORTS_MAX, TOO_MANY)

    async def newest(self, request: HttpRequest, caller: Caller) -> Answer:
        parameters = listing.parse_query(request.scope["query_string"])
        older_than = listing.first_value(parameters, "older_than", None)
        if refusal := listing.check_older_than(parameters):
            return refusal
        try:
            page = await self._store.page(caller, UUID(older_than) if older_than else None)
            statuses = await self._statuses(page)
        except Unavailable:
            return CANNOT_READ
        url = f"{request.base_url()}{PATH}"
        links = {"current": f"{url}?older_than={older_than}" if older_than else url}
        if page:
            links["next"] = f"{url}?older_than={page[-1].id}"
        pairs = zip(page, statuses, strict=True)
        shown = [self._view.stored(job, status, caller.service) for job, status in pairs]
        return json_answer({"jobs": shown, "links": links})

    async def one(self, request: HttpRequest, caller: Caller) -> Answer:
        job = await self._find(request, caller)
        if isinstance(job, Answer):
            return job
        try:
            return json_answer({"data": await self._with_progress(job, caller)})
        except Unavailable:
            return CANNOT_READ

    def command(self, command: Command) -> Callable[[HttpRequest, Caller], Awaitable[Answer]]:
        """Return the handler that accepts this command for a job."""

        async def handle(request: HttpRequest, caller: Caller) -> Answer:
            job = await self._find(request, caller)
            if isinstance(job, Answer):
                return job
            try:
                nothing_to_send = bool(job.finished_at) and await self._store.nothing_to_send(job)
            except Unavailable:
                return CANNOT_READ
            if refusal := rules.check_command(rules.status(job, nothing_to_send), command):
                return refusal
            now = clock.now()
            try:
                await self._inbox.put(job_command(job.id, command, now))
            except Unavailable:
                return NOT_ACKNOWLEDGED
            # The command is durable now. Counting may take seconds or fail, and must not undo 202.
            commanded = replace(job, command=command, commanded_at=now)
            try:
                shown = await self._with_progress(commanded, caller)
            except Unavailable:
                status = rules.status(commanded, nothing_to_send)
                shown = self._view.stored(commanded, status, caller.service)
            return json_answer({"data": shown}, 202)

        return handle

    async def report(self, request: HttpRequest, caller: Caller) -> Answer:
        with ExitStack() as slot:
            slot.enter_context(self._reports.acquire(caller.service.id))
            job = await self._find(request, caller)
            if isinstance(job, Answer):
                return job
            # From here on the slot is released by the server, once it has sent the answer.
            kept_slot = slot.pop_all()
        name = f'attachment; filename="job-{job.id}.csv"'.encode()
        return Answer(
            200,
            headers=((b"content-disposition", name),),
            content_type=CSV,
            parts=report.parts(self._store, job, self._key_ring),
            release=kept_slot.close,
        )

    async def _find(self, request: HttpRequest, caller: Caller) -> Job | Answer:
        [id] = request.path_parameters
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("job_id is not a valid UUID")
        try:
            job = await self._store.job(caller, UUID(id))
        except Unavailable:
            return CANNOT_READ
        if isinstance(job, Missing):
            return NO_RESULT if job.certain else NOT_YET
        return job

    async def _statuses(self, page: Sequence[Job]) -> list[str]:
        """Return the jobs' statuses. A job that is not checked in time counts as unfinished."""
        now = asyncio.get_running_loop().time
        until = now() + LIST_SECONDS
        statuses = []
        for job in page:
            may_check = job.finished_at and now() < until
            nothing_to_send = bool(may_check) and await self._store.nothing_to_send(job)
            statuses.append(rules.status(job, nothing_to_send))
        return statuses

    async def _with_progress(self, job: Job, caller: Caller) -> dict[str, object]:
        counts = await self._store.count_rows(job)
        status = rules.status(job, counts.nothing_to_send)
        shown = self._view.stored(job, status, caller.service)
        return {**shown, **rules.progress(job, counts, status)}
