"""The sandbox as an ASGI application: one base URL for every wire, and for people who watch it.

It is raw ASGI: a framework's routing would take a third of the 0.25 ms that a SendEmail may cost.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from courant_sandbox import apis, metrics, ses, sms
from courant_sandbox.apis import Api
from courant_sandbox.faults import Control
from courant_sandbox.ledger import Ledger
from courant_sandbox.messages import Channel, Refused, Reply
from courant_sandbox.page import Page
from courant_sandbox.provider import Provider
from courant_sandbox.signing import CERTIFICATE_PATH
from courant_sandbox.sns import Topic

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A message of 40 MB in base64, and the JSON around it.
BODY_BYTES_MAX = 56 * 1024 * 1024
HANG_SECONDS_MAX = 120.0

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_TARGET = b"x-amz-target"


class App:
    """Routes requests. The parts that it receives know everything else."""

    def __init__(
        self,
        *,
        provider: Provider,
        control: Control,
        ledger: Ledger,
        topic: Topic,
        page: Page,
        certificate: bytes,
        rate: float,
    ) -> None:
        self._provider = provider
        self._control = control
        self._ledger = ledger
        self._topic = topic
        self._page = page
        self._certificate = certificate
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        method, path = scope["method"], scope["path"]
        if method == "GET" and path == "/ledger":
            await self._tell_ledger(scope, send)
            return
        try:
            reply = await self._reply(method, path, scope, receive)
        except Exception:
            # The outermost boundary: the server's own log names neither the path nor the line of
            # code.
            log.exception("request failed", extra={"method": method, "path": path})
            reply = _plain(500, "The sandbox has an error of its own; its log says which.\n")
        await _answer(send, reply)

    async def _reply(self, method: str, path: str, scope: Scope, receive: Receive) -> Reply:
        if method == "POST":
            return await self._post(path, scope, receive)
        if path == "/_control":
            return await self._ordered(method, receive)
        if method != "GET":
            return _plain(405, "This method is not served here.\n")
        return self._get(path, scope)

    async def _post(self, path: str, scope: Scope, receive: Receive) -> Reply:
        body = await _body(receive)
        if body is None:
            return ses.refused(Refused("RequestEntityTooLargeException", "Too large.", 413))
        api = _api(path, scope["headers"], body)
        if api is None:
            return ses.refused(Refused("UnknownOperationException", "Not served here.", 404))
        return await self._provider.answer(api, body, lambda: _gone(receive))

    async def _ordered(self, method: str, receive: Receive) -> Reply:
        if method == "PUT":
            try:
                self._control.merge(await _body(receive) or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                return _json(400, {"message": f"the faults are invalid, nothing changed: {error}"})
        elif method == "DELETE":
            self._control.reset()
        elif method != "GET":
            return _plain(405, "This method is not served here.\n")
        return _json(200, self._control.shown())

    def _get(self, path: str, scope: Scope) -> Reply:
        query = {
            name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        if path == "/":
            if query.get("Action") == "ConfirmSubscription":
                return self._confirm(query)
            return self._page.inbox(query)
        if path.startswith("/messages/"):
            return self._page.message(path.removeprefix("/messages/"), query)
        if path == "/style.css":
            return self._page.style()
        if path == "/calls":
            return self._calls()
        if path == "/v2/email/account":
            quota = self._control.of(Channel.EMAIL).quota_per_second
            rate = self._rate if quota is None else min(quota, self._rate)
            return ses.account(rate, self._provider.booked[Channel.EMAIL])
        if path == CERTIFICATE_PATH:
            return Reply(200, [(b"content-type", b"application/x-pem-file")], self._certificate)
        if path in ("/healthz", "/readyz"):
            return _plain(200, "ok\n")
        if path == "/metrics":
            content_type = (b"content-type", CONTENT_TYPE_LATEST.encode())
            return Reply(200, [content_type], generate_latest(metrics.REGISTRY))
        return _plain(404, "Nothing is here.\n")

    def _confirm(self, query: Mapping[str, str]) -> Reply:
        if not self._topic.confirm(query.get("TopicArn", ""), query.get("Token", "")):
            return sms.refused_publish(Refused("InvalidParameter", "Invalid token"))
        return sms.confirmed(self._topic.subscription_arn)

    def _calls(self) -> Reply:
        calls = self._provider.calls()
        return _json(
            200,
            {
                "calls": len(calls),
                "notification_ids": [id for call in calls for id in call.notification_ids],
                "in_progress": calls,
                "booked": self._provider.booked,
                "ledger_lines": self._ledger.lines(),
                "receipts_confirmed": self._topic.confirmed.is_set(),
            },
        )

    async def _tell_ledger(self, scope: Scope, send: Send) -> None:
        since = parse_qs(scope["query_string"].decode()).get("since", ["0"])[0]
        if not since.isdecimal():
            await _answer(send, _json(400, {"message": "since must be a line number"}))
            return
        await send(_start(200, [(b"content-type", b"application/x-ndjson")]))
        async for block in _in_turns(self._ledger, int(since)):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _in_turns(ledger: Ledger, since: int) -> AsyncIterator[bytes]:
    """Read a block, let other calls run, read the next."""
    for block in ledger.blocks(since):
        yield block
        await asyncio.sleep(0)


def _api(path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Api | None:
    if path == "/v2/email/outbound-emails":
        return apis.SEND_EMAIL
    if path == "/v2/email/outbound-bulk-emails":
        return apis.SEND_BULK_EMAIL
    if path != "/":
        return None
    target = next((value for name, value in headers if name == _TARGET), None)
    if target is not None:
        return apis.SEND_TEXT_MESSAGE if target.endswith(b".SendTextMessage") else None
    return apis.PUBLISH if b"Action=Publish&" in body + b"&" else None


async def _body(receive: Receive) -> bytes | None:
    """Read the body; return None if it exceeds the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            return None
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _gone(receive: Receive) -> None:
    """Wait until the caller has hung up, or until HANG_SECONDS_MAX have passed."""
    try:
        async with asyncio.timeout(HANG_SECONDS_MAX):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return


async def _answer(send: Send, reply: Reply) -> None:
    # The length is that of the bytes sent. If more were promised, the server would wait for them,
    # and the caller would see a timeout instead of a body that it cannot parse.
    body = reply.body[: len(reply.body) // 2] if reply.form == "half-body" else reply.body
    length = (b"content-length", str(len(body)).encode())
    await send(_start(reply.status, [*reply.headers, length]))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> MutableMapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _json(status: int, body: object) -> Reply:
    return Reply(status, [_JSON], msgspec.json.encode(body) + b"\n")


def _plain(status: int, text: str) -> Reply:
    return Reply(status, [_TEXT], text.encode())
