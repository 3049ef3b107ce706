"""The addresses, and what each one does."""

from collections.abc import Awaitable, Callable, Sequence
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
    NOTIFICATION_NOT_FOUND,
    URL_NOT_FOUND,
    Answer,
    bad_request,
    json_answer,
    unavailable,
    validation_error,
)
from ingest.http.asgi import Handler, HttpRequest, Route
from ingest.jobs.handle import JobEndpoints
from ingest.read import listing
from ingest.read.store import Chosen, Missing
from ingest.read.templates import TemplateEndpoints
from ingest.read.views import NotificationRow, View
from ingest.receipts.handle import ReceiptEndpoints

NOT_YET = unavailable("The notification may be on its way, try again")
NOT_READABLE = unavailable("Notifications cannot be read now, try again")
NO_LETTERS = bad_request("Service is not allowed to send letters")
LIST = "/v2/notifications"

ForCaller = Callable[[HttpRequest, Caller], Awaitable[Answer]]


class Rows(Protocol):
    """What is stored, for those who ask; each question raises Unavailable."""

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        """Give a service's notification."""

    async def page(self, chosen: Chosen) -> Sequence[NotificationRow]:
        """Give a page of a list."""

    async def version(self) -> str | None:
        """Tell the schema's version, if anybody knows."""


class Api:
    """Answers calls, with the parts it is given."""

    def __init__(
        self,
        gate: Authentication,
        accept: Accept,
        reader: Rows,
        window: View,
        desk: ReceiptEndpoints,
        stationery: TemplateEndpoints,
        jobs: JobEndpoints,
        bulk: Bulk,
    ) -> None:
        self._gate = gate
        self._accept = accept
        self._bulk = bulk
        self._reader = reader
        self._window = window
        self._desk = desk
        self._stationery = stationery
        self._jobs = jobs

    def routes(self) -> list[Route]:
        """Give all addresses."""
        known, stationery, read = self._known, self._stationery, self._known(self._read)
        jobs = self._jobs
        return [
            Route(f"{LIST}/email", {"POST": self._sending(Channel.EMAIL), "GET": read}),
            Route(f"{LIST}/sms", {"POST": self._sending(Channel.SMS), "GET": read}),
            Route(f"{LIST}/bulk", {"POST": known(self._bulk.bulk), "GET": read}),
            Route(f"{LIST}/{{}}", {"POST": known(self._send_other), "GET": read}),
            Route(LIST, {"GET": known(self._list)}),
            Route("/v2/template/{}", {"GET": known(stationery.newest)}),
            Route("/v2/template/{}/version/{n}", {"GET": known(stationery.version)}),
            Route("/v2/template/{}/preview", {"POST": known(stationery.preview)}),
            Route("/v2/templates", {"GET": known(stationery.all)}),
            Route("/v2/received-text-messages", {"GET": known(stationery.received)}),
            Route("/v2/jobs", {"POST": known(self._bulk.job), "GET": known(jobs.newest)}),
            Route("/v2/jobs/{}", {"GET": known(jobs.one)}),
            Route("/v2/jobs/{}/cancel", {"POST": known(jobs.command(Command.CANCELLED))}),
            Route("/v2/jobs/{}/pause", {"POST": known(jobs.command(Command.PAUSED))}),
            Route("/v2/jobs/{}/resume", {"POST": known(jobs.command(Command.RESUMED))}),
            Route("/v2/jobs/{}/report", {"GET": known(jobs.report)}),
            Route("/receipts", {"POST": self._receipt}),
            Route("/receipts/heartbeat", {"POST": self._heartbeat}),
            Route("/", {"GET": self._status}, even_when_busy=True),
            Route("/_status", {"GET": self._status, "POST": self._status}, even_when_busy=True),
            Route("/docs", {"GET": fixed(openapi.PAGE)}),
            Route("/openapi.json", {"GET": fixed(openapi.AS_JSON)}),
            Route("/v2/openapi-en", {"GET": fixed(openapi.AS_YAML)}),
            Route("/v2/openapi-fr", {"GET": fixed(openapi.AS_YAML)}),
        ]  # fmt: skip

    def _known(self, handler: ForCaller) -> Handler:
        async def handle(call: HttpRequest) -> Answer:
            caller = self._gate.authenticate(call.header(b"authorization"), clock.now())
            return caller if isinstance(caller, Answer) else await handler(call, caller)

        return handle

    def _sending(self, channel: Channel) -> Handler:
        return self._known(partial(self._accept.notification, channel))

    async def _send_other(self, call: HttpRequest, _: Caller) -> Answer:
        body = fields.decode_object(call.header(b"content-type"), await call.body())
        if isinstance(body, Answer):
            return body
        return NO_LETTERS if call.path_parameters == ("letter",) else URL_NOT_FOUND

    async def _read(self, call: HttpRequest, caller: Caller) -> Answer:
        [id] = call.path_parameters or ("",)
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("notification_id is not a valid UUID")
        try:
            found = await self._reader.notification(caller.service.id, UUID(id))
        except Unavailable:
            return NOT_READABLE
        if isinstance(found, Missing):
            return NOTIFICATION_NOT_FOUND if found.certain else NOT_YET
        return json_answer(self._window.notification(found, call.base_url()))

    async def _list(self, call: HttpRequest, caller: Caller) -> Answer:
        parameters = listing.parameters(call.scope["query_string"])
        if refusal := listing.checked(parameters):
            return refusal
        try:
            rows = await self._reader.page(listing.chosen(parameters, caller))
        except Unavailable:
            return NOT_READABLE
        base = call.base_url()
        shown = [self._window.notification(row, base) for row in rows]
        last = rows[-1].id if rows else None
        return json_answer({"notifications": shown, "links": listing.links(base, parameters, last)})

    async def _receipt(self, call: HttpRequest) -> Answer:
        return await self._desk.sns(await call.body(), clock.now())

    async def _heartbeat(self, call: HttpRequest) -> Answer:
        return await self._desk.heartbeat(await call.body(), call.header(b"x-courant-signature"))

    async def _status(self, call: HttpRequest) -> Answer:
        if b"simple=" in call.scope["query_string"]:
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


def fixed(answer: Answer) -> Handler:
    """Give the same answer to everybody."""

    async def handle(_: HttpRequest) -> Answer:
        return answer

    return handle
