"""What a client asks about its jobs, and what it wants of them."""

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
from ingest.jobs.store import Stretch
from ingest.jobs.views import JobView
from ingest.read import listing
from ingest.read.store import Missing

NOT_YET = unavailable("The job may be on its way, try again")
NOT_READABLE = unavailable("Jobs cannot be read now, try again")
TOO_MANY = unavailable("Too many reports are being written, try again")
REPORTS_MAX = 8  # at once; each has a thousand rows in memory
LIST_SECONDS = 1.0  # that a list takes to look whether its jobs have finished
ADDRESS = "/v2/jobs"
KIND = b"text/csv; charset=utf-8; header=present"


class Jobs(Protocol):
    """What is stored of jobs. Every read but `first` raises Unavailable."""

    async def job(self, caller: Caller, id: UUID) -> Job | Missing:
        """Give a caller's job."""

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        """Return the first job with an Idempotency-Key. None may also mean no answer in time."""

    async def page(self, caller: Caller, older_than: UUID | None) -> Sequence[Job]:
        """Give a page of a caller's jobs, newest first."""

    async def tally(self, job: Job) -> JobCounts:
        """Count a job's rows."""

    async def quiet(self, job: Job) -> bool:
        """Tell whether no row of a job waits to be sent."""

    async def stretch(
        self, job: Job, first: int, last: int, write: Callable[[Stretch], bytes]
    ) -> bytes:
        """Read rows of a job, and give what `write` makes of them."""


class JobEndpoints:
    """Answers about jobs, and writes down what their owners want."""

    def __init__(self, store: Jobs, log: Inbox, view: JobView, ring: KeyRing) -> None:
        self._store = store
        self._log = log
        self._view = view
        self._ring = ring
        self._reports = Slots(REPORTS_MAX, TOO_MANY)

    async def newest(self, call: HttpRequest, caller: Caller) -> Answer:
        asked = listing.parse_query(call.scope["query_string"])
        older_than = listing.first_value(asked, "older_than", None)
        if refusal := listing.check_older_than(asked):
            return refusal
        try:
            page = await self._store.page(caller, UUID(older_than) if older_than else None)
            standings = await self._standings(page)
        except Unavailable:
            return NOT_READABLE
        address = f"{call.base_url()}{ADDRESS}"
        links = {"current": f"{address}?older_than={older_than}" if older_than else address}
        if page:
            links["next"] = f"{address}?older_than={page[-1].id}"
        pairs = zip(page, standings, strict=True)
        shown = [self._view.stored(job, standing, caller.service) for job, standing in pairs]
        return json_answer({"jobs": shown, "links": links})

    async def one(self, call: HttpRequest, caller: Caller) -> Answer:
        job = await self._found(call, caller)
        if isinstance(job, Answer):
            return job
        try:
            return json_answer({"data": await self._told(job, caller)})
        except Unavailable:
            return NOT_READABLE

    def command(self, command: Command) -> Callable[[HttpRequest, Caller], Awaitable[Answer]]:
        """Give what takes a wish for a job."""

        async def take(call: HttpRequest, caller: Caller) -> Answer:
            job = await self._found(call, caller)
            if isinstance(job, Answer):
                return job
            try:
                quiet = bool(job.finished_at) and await self._store.quiet(job)
            except Unavailable:
                return NOT_READABLE
            if refusal := rules.refusal(rules.status(job, quiet), command):
                return refusal
            now = clock.now()
            try:
                await self._log.put(job_command(job.id, command, now))
            except Unavailable:
                return NOT_ACKNOWLEDGED
            # Counting may take seconds, or fail: what is wanted is written down by then.
            wanting = replace(job, command=command, wished_at=now)
            try:
                told = await self._told(wanting, caller)
            except Unavailable:
                told = self._view.stored(wanting, rules.status(wanting, quiet), caller.service)
            return json_answer({"data": told}, 202)

        return take

    async def report(self, call: HttpRequest, caller: Caller) -> Answer:
        with ExitStack() as held:
            held.enter_context(self._reports.acquire(caller.service.id))
            job = await self._found(call, caller)
            if isinstance(job, Answer):
                return job
            # Who sends the answer gives the place back.
            place = held.pop_all()
        name = f'attachment; filename="job-{job.id}.csv"'.encode()
        return Answer(
            200,
            headers=((b"content-disposition", name),),
            content_type=KIND,
            parts=report.parts(self._store, job, self._ring),
            release=place.close,
        )

    async def _found(self, call: HttpRequest, caller: Caller) -> Job | Answer:
        [id] = call.path_parameters
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("job_id is not a valid UUID")
        try:
            found = await self._store.job(caller, UUID(id))
        except Unavailable:
            return NOT_READABLE
        if isinstance(found, Missing):
            return NO_RESULT if found.certain else NOT_YET
        return found

    async def _standings(self, page: Sequence[Job]) -> list[str]:
        """Name the jobs' states; one that is not looked at in time has not finished yet."""
        now = asyncio.get_running_loop().time
        until = now() + LIST_SECONDS
        return [
            rules.status(
                job, bool(job.finished_at) and now() < until and await self._store.quiet(job)
            )
            for job in page
        ]

    async def _told(self, job: Job, caller: Caller) -> dict[str, object]:
        tally = await self._store.tally(job)
        standing = rules.status(job, tally.quiet)
        return {
            **self._view.stored(job, standing, caller.service),
            **rules.progress(job, tally, standing),
        }
