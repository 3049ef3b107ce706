"""The edge to ASGI: bytes in, an Answer out, and what every answer has.

Raw ASGI: routing and headers cost 12 µs here (decision 0004).
"""

import asyncio
import contextvars
import logging
import math
import os
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import prometheus_client  # noqa: TC002  # an import aside costs the reader more

from courant import metrics
from ingest.http.answers import (
    BODY_INCOMPLETE,
    BODY_TOO_SLOW,
    BUSY,
    REQUEST_TOO_LARGE,
    URL_NOT_FOUND,
    Answer,
    error_answer,
    method_not_allowed,
)
from ingest.http.streaming import Receive, Send, send_parts

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}")
FRAMES_LOGGED = 3
TRACE_MAX = 128  # bytes of a tracing header that is echoed
# A body that is waited for holds a place among the requests in flight.
PART_SECONDS = 5.0  # between two parts of a body
BODY_SECONDS = 30.0  # for all of it, since a byte now and then is no pause
CROSS_ORIGIN = [
    (b"access-control-allow-headers", b"Content-Type,Authorization"),
    (b"access-control-allow-methods", b"GET,PUT,POST,PATCH,DELETE"),
]
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class AnsweredEarly(Exception):
    """The request is answered before it was read."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(slots=True)
class HttpRequest:
    """A request: its headers at once, its body when it is asked for."""

    method: str
    scope: Mapping[str, Any]
    headers: Mapping[bytes, bytes]
    receive: Receive
    body_bytes_max: int
    path_parameters: tuple[str, ...] = ()  # what stands in the path's places
    fully_read: bool = False  # whether all of its body has come

    @property
    def has_unread_body(self) -> bool:
        """Tell whether a body was announced that nobody has read to its end."""
        announced = self.headers.get(b"content-length", b"0") != b"0"
        return not self.fully_read and (announced or b"transfer-encoding" in self.headers)

    def header(self, name: bytes) -> str:
        """Give a header, or nothing."""
        return self.headers.get(name, b"").decode("latin-1")

    def base_url(self) -> str:
        """Give the scheme and host that the client called, as a proxy in front tells them."""
        scheme = self.headers.get(b"x-forwarded-proto", b"").decode("latin-1")
        if scheme not in ("http", "https"):
            scheme = self.scope.get("scheme", "http")
        host = self.headers.get(b"host", b"")
        return f"{scheme}://{host.decode() if HOST.fullmatch(host) else 'localhost'}"

    async def body(self) -> bytes:
        """Read the body; raises AnsweredEarly when it is too large, too slow, or breaks off."""
        length = self.headers.get(b"content-length", b"0")
        if len(length) > 18 or (length.isdigit() and int(length) > self.body_bytes_max):
            raise AnsweredEarly(REQUEST_TOO_LARGE)
        parts: list[bytes] = []
        size = 0
        until = asyncio.get_running_loop().time() + BODY_SECONDS
        while not self.fully_read:
            parts.append(await self.next_part(until))
            size += len(parts[-1])
            if size > self.body_bytes_max:
                raise AnsweredEarly(REQUEST_TOO_LARGE)
        return b"".join(parts)

    async def next_part(self, until: float = math.inf) -> bytes:
        """Return the next part of the body; `read` is true once it was the last.

        Raises AnsweredEarly if the part is late, by the loop's time `until`, or breaks off.
        """
        try:
            late = asyncio.get_running_loop().time() + PART_SECONDS
            async with asyncio.timeout_at(min(until, late)):
                message = await self.receive()
        except TimeoutError:
            raise AnsweredEarly(BODY_TOO_SLOW) from None
        if message["type"] == "http.disconnect":
            # Its sender has left, or what came is no body; only the latter reads this.
            raise AnsweredEarly(BODY_INCOMPLETE)
        self.fully_read = not message.get("more_body")
        return bytes(message.get("body", b""))


Handler = Callable[[HttpRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """An address: `{}` is a place for anything but a slash, `{n}` for digits."""

    path: str
    handlers: Mapping[str, Handler]
    even_when_busy: bool = False  # answered also when too many requests are in flight

    def pattern(self) -> re.Pattern[str]:
        return re.compile(
            re.escape(self.path).replace(r"\{\}", "([^/]+)").replace(r"\{n\}", "([0-9]{1,9})")
        )

    def allowed_methods(self) -> tuple[str, ...]:
        head = ("HEAD",) if "GET" in self.handlers else ()
        return (*self.handlers, *head, "OPTIONS")


class App:
    """The ASGI application."""

    def __init__(
        self,
        routes: Iterable[Route],
        in_flight_max: int,
        body_bytes_max: int,
        origins: frozenset[bytes] = frozenset(),
    ) -> None:
        self._exact = {route.path: route for route in routes if "{" not in route.path}
        self._patterns = [(route.pattern(), route) for route in routes if "{" in route.path]
        self._in_flight = 0
        self._in_flight_max = in_flight_max
        self._body_bytes_max = body_bytes_max
        self._origins = origins
        self._counters: dict[tuple[str, int], prometheus_client.Counter] = {}
        self._timers: dict[str, prometheus_client.Histogram] = {}
        metrics.IN_FLIGHT.set_function(lambda: self._in_flight)

    @property
    def in_flight(self) -> int:
        """Tell how many requests are being answered."""
        return self._in_flight

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        began = time.perf_counter()
        headers = dict(scope["headers"])
        id = headers.get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(id):
            id = os.urandom(8).hex().encode()
        request_id.set(id.decode())
        request = HttpRequest(scope["method"], scope, headers, receive, self._body_bytes_max)
        self._in_flight += 1
        route = "none"
        try:
            route, answer = await self._answer(request)
        except AnsweredEarly as early:
            answer = early.answer
        except Exception as error:  # noqa: BLE001  # the boundary with the outside
            log_failure(error)
            answer = error_answer(500, type(error).__name__, "Internal server error")
        finally:
            self._in_flight -= 1
        try:
            self._count(route, answer.status, time.perf_counter() - began)
            await self._send(answer, request, id, send)
        finally:
            if answer.release:
                answer.release()

    async def _send(self, answer: Answer, request: HttpRequest, id: bytes, send: Send) -> None:
        headers = request.headers
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.content_type),
                    # The server sends a body without a length in chunks.
                    *([] if answer.parts else [(b"content-length", b"%d" % len(answer.body))]),
                    *CROSS_ORIGIN,
                    (b"x-b3-traceid", headers.get(b"x-b3-traceid", b"None")[:TRACE_MAX]),
                    (b"x-b3-spanid", headers.get(b"x-b3-spanid", b"None")[:TRACE_MAX]),
                    (b"x-request-id", id),
                    # The server hangs up on a body that is not read; a client has to know of it.
                    *([(b"connection", b"close")] if request.has_unread_body else []),
                    *self._origin(headers),
                    *answer.headers,
                ],
            }
        )
        if answer.parts and request.method != "HEAD":
            await self._send_parts(answer.parts, request.receive, send)
        else:
            body = b"" if request.method == "HEAD" else answer.body
            await send({"type": "http.response.body", "body": body})

    async def _send_parts(
        self, parts: AsyncGenerator[bytes, None], receive: Receive, send: Send
    ) -> None:
        self._in_flight += 1
        try:
            await send_parts(parts, receive, send)
        except Exception as error:  # noqa: BLE001  # the boundary with the outside
            log_failure(error)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: HttpRequest) -> tuple[str, Answer]:
        path = request.scope["path"]
        route = self._exact.get(path)
        if route is None:
            for pattern, each in self._patterns:
                if match := pattern.fullmatch(path):
                    route, request.path_parameters = each, match.groups()
                    break
            else:
                return "none", URL_NOT_FOUND
        if request.method == "OPTIONS":
            return route.path, Answer(
                200, headers=((b"allow", ", ".join(route.allowed_methods()).encode()),)
            )
        handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return route.path, method_not_allowed(*route.allowed_methods())
        if self._in_flight > self._in_flight_max and not route.even_when_busy:
            return route.path, BUSY
        return route.path, await handler(request)

    def _origin(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        if origin is None or origin not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def _count(self, route: str, status: int, seconds: float) -> None:
        # Looking a child up by its labels takes longer than counting.
        place = (route, status)
        if place not in self._counters:
            self._counters[place] = metrics.REQUESTS.labels(route, str(status))
            self._timers[route] = metrics.REQUEST_SECONDS.labels(route)
        self._counters[place].inc()
        self._timers[route].observe(seconds)


def log_failure(error: Exception) -> None:
    """Log a failure of ours by its kind and its place: the values in its text may be personal."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_LOGGED:]
    at = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    log.error("request failed", extra={"error": type(error).__name__, "at": at})


class RequestIdFilter(logging.Filter):
    """Puts the request's id onto every line that is logged while it is answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        if id := request_id.get():
            record.request_id = id
        return True
