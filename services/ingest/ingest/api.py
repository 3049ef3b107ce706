"""The paths of the API and the handler of each."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol
from uuid import UUID

from courant import clock, version
from courant.contracts import Command
from courant.errors import Unavailable
from courant.topics import Channel
from ingest import openapi
from ingest.accept.handle import Accept
from ingest.bulk.handle import Bulk
from ingest.callers.auth import Authentication, Caller
from ingest.http import fields
from ingest.http.answers import (
    BUSY,
    NOTIFICATION_NOT_FOUND,
    URL_NOT_FOUND,
    Answer,
    bad_request,
    json_answer,
    unavailable,
    validation_error,
)
from ingest.http.asgi import AnsweredEarly, Handler, HttpRequest, Route
from ingest.jobs.handle import JobEndpoints
from ingest.read import listing
from ingest.read.pages import ListFilter, Page
from ingest.read.store import Missing
from ingest.read.templates import TemplateEndpoints
from ingest.read.views import NotificationRow, View
from ingest.receipts.handle import ReceiptEndpoints

NOT_YET = unavailable("The notification may be on its way, try again")
CANNOT_READ = unavailable("Notifications cannot be read now, try again")
NO_LETTERS = bad_request("Service is not allowed to send letters")
LIST = "/v2/notifications"
RECEIPT_BYTES_MAX = 1024 * 1024  # SNS posts at most 256 KiB, which JSON may write longer
HEARTBEAT_BYTES_MAX = 1024

AuthenticatedHandler = Callable[[HttpRequest, Caller], Awaitable[Answer]]


class NotificationStore(Protocol):
    """Stored notifications. Every read may raise Unavailable."""

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        """Return a service's notification, or Missing."""

    async def page(self, chosen: ListFilter) -> Page:
        """Return a page of a list."""

    async def version(self) -> str | None:
        """Return the database schema's version, or None if it cannot be read."""


class Api:
    """Connects each path with the part that answers it."""

    def __init__(
        self,
        authentication: Authentication,
        accept: Accept,
        reader: NotificationStore,
        view: View,
        receipts: ReceiptEndpoints,
        templates: TemplateEndpoints,
        jobs: JobEndpoints,
        bulk: Bulk,
    ) -> None:
        self._authentication = authentication
        self._accept = accept
        self._bulk = bulk
        self._reader = reader
        self._view = view
        self._receipts = receipts
        self._templates = templates
        self._jobs = jobs

    def routes(self) -> list[Route]:
        """Return all paths with their handlers."""
        with_key, read = self._authenticated, self._authenticated(self._read)
        templates, jobs = self._templates, self._jobs
        return [
            Route(f"{LIST}/email", {"POST": self._sending(Channel.EMAIL), "GET": read}),
            Route(f"{LIST}/sms", {"POST": self._sending(Channel.SMS), "GET": read}),
            Route(f"{LIST}/bulk", {"POST": with_key(self._bulk.bulk), "GET": read}),
            Route(f"{LIST}/{{}}", {"POST": with_key(self._send_other), "GET": read}),
            Route(LIST, {"GET": with_key(self._list)}),
            Route("/v2/template/{}", {"GET": with_key(templates.newest)}),
            Route("/v2/template/{}/version/{n}", {"GET": with_key(templates.version)}),
            Route("/v2/template/{}/preview", {"POST": with_key(templates.preview)}),
            Route("/v2/templates", {"GET": with_key(templates.all)}),
            Route("/v2/received-text-messages", {"GET": with_key(templates.received)}),
            Route("/v2/jobs", {"POST": with_key(self._bulk.job), "GET": with_key(jobs.newest)}),
            Route("/v2/jobs/{}", {"GET": with_key(jobs.one)}),
            Route("/v2/jobs/{}/cancel", {"POST": with_key(jobs.command(Command.CANCELLED))}),
            Route("/v2/jobs/{}/pause", {"POST": with_key(jobs.command(Command.PAUSED))}),
            Route("/v2/jobs/{}/resume", {"POST": with_key(jobs.command(Command.RESUMED))}),
            Route("/v2/jobs/{}/report", {"GET": with_key(jobs.report)}),
            Route("/receipts", {"POST": self._receipt}, stranger_bytes_max=RECEIPT_BYTES_MAX),
            Route("/receipts/heartbeat", {"POST": self._heartbeat},
                  stranger_bytes_max=HEARTBEAT_BYTES_MAX),
            Route("/", {"GET": self._status}, even_when_busy=True),
            Route("/_status", {"GET": self._status, "POST": self._status}, even_when_busy=True),
            Route("/docs", {"GET": always(openapi.PAGE)}),
            Route("/openapi.json", {"GET": always(openapi.AS_JSON)}),
            Route("/v2/openapi-en", {"GET": always(openapi.AS_YAML)}),
            Route("/v2/openapi-fr", {"GET": always(openapi.AS_YAML)}),
        ]  # fmt: skip

    def _authenticated(self, handler: AuthenticatedHandler) -> Handler:
        async def handle(request: HttpRequest) -> Answer:
            caller = self._authentication.authenticate(
                request.header(b"authorization"), clock.now()
            )
            return caller if isinstance(caller, Answer) else await handler(request, caller)

        return handle

    def _sending(self, channel: Channel) -> Handler:
        return self._authenticated(partial(self._accept.notification, channel))

    async def _send_other(self, request: HttpRequest, _: Caller) -> Answer:
        body = fields.decode_object(request.header(b"content-type"), await request.body())
        if isinstance(body, Answer):
            return body
        return NO_LETTERS if request.path_parameters == ("letter",) else URL_NOT_FOUND

    async def _read(self, request: HttpRequest, caller: Caller) -> Answer:
        [id] = request.path_parameters or ("",)
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("notification_id is not a valid UUID")
        try:
            row = await self._reader.notification(caller.service.id, UUID(id))
        except Unavailable:
            return CANNOT_READ
        if isinstance(row, Missing):
            return NOTIFICATION_NOT_FOUND if row.certain else NOT_YET
        return json_answer(self._view.notification(row, request.base_url()))

    async def _list(self, request: HttpRequest, caller: Caller) -> Answer:
        parameters = listing.parse_query(request.scope["query_string"])
        if refusal := listing.check_parameters(parameters):
            return refusal
        try:
            page = await self._reader.page(listing.list_filter(parameters, caller))
        except Unavailable:
            return CANNOT_READ
        base = request.base_url()
        shown = [self._view.notification(row, base) for row in page.rows]
        links = listing.links(base, parameters, page.last)
        return json_answer({"notifications": shown, "links": links})

    async def _receipt(self, request: HttpRequest) -> Answer:
        try:
            body = await request.body()
        except AnsweredEarly as early:
            if early.answer is BUSY:
                await self._receipts.put_off("there was no room for its body")
            raise
        return await self._receipts.sns(body, clock.now())

    async def _heartbeat(self, request: HttpRequest) -> Answer:
        return await self._receipts.heartbeat(
            await request.body(), request.header(b"x-courant-signature")
        )

    async def _status(self, request: HttpRequest) -> Answer:
        if b"simple=" in request.scope["query_string"]:
            return json_answer({"status": "ok"})
        return json_answer(
            {
                "current_time_utc": clock.now(),
                "status": "ok",
                "commit_sha": version.BUILD.commit,
                "build_time": version.BUILD.built_at,
                "db_version": await self._reader.version(),
            }
        )


def always(answer: Answer) -> Handler:
    """Return a handler that gives this answer to every request."""

    async def handle(_: HttpRequest) -> Answer:
        return answer

    return handle
