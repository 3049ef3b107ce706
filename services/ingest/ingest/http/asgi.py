"""The ASGI application: it routes a request, calls its handler and sends the Answer.

It uses no framework, so routing and headers cost 12 µs a request (decision 0004).
"""

import asyncio
import math
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import prometheus_client  # noqa: TC002  # clearer than an import under TYPE_CHECKING

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
from ingest.http.budget import BodyBudget, HeldBody
from ingest.http.request_log import log_failure, request_id
from ingest.http.streaming import Receive, Send, send_parts

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}")
TRACE_MAX = 128  # bytes of a tracing header that is echoed
# A request counts as in flight while its body is read, so both times are bounded.
PART_SECONDS = 5.0  # for the next part of a body
BODY_SECONDS = 30.0  # for the whole body: a client that sends single bytes never pauses for long
CROSS_ORIGIN = [
    (b"access-control-allow-headers", b"Content-Type,Authorization"),
    (b"access-control-allow-methods", b"GET,PUT,POST,PATCH,DELETE"),
]


class AnsweredEarly(Exception):
    """Ends the handling of a request with this answer. Only ingest.http may raise it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(slots=True)
class HttpRequest:
    """A request with its headers. Its body is read on demand."""

    method: str
    scope: Mapping[str, Any]
    headers: Mapping[bytes, bytes]
    receive: Receive
    body_bytes_max: int
    held: HeldBody  # what the body takes of the budget, until the request is answered
    path_parameters: tuple[str, ...] = ()  # the parts of the path that matched {} or {n}
    fully_read: bool = False  # whether the body has arrived to its end

    @property
    def has_unread_body(self) -> bool:
        """Report whether the headers announce a body that was not read to its end."""
        announced = self.headers.get(b"content-length", b"0") != b"0"
        return not self.fully_read and (announced or b"transfer-encoding" in self.headers)

    def header(self, name: bytes) -> str:
        """Return a header's value, or "" if it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def base_url(self) -> str:
        """Return the scheme and host that the client called. Believes a proxy's headers."""
        scheme = self.headers.get(b"x-forwarded-proto", b"").decode("latin-1")
        if scheme not in ("http", "https"):
            scheme = self.scope.get("scheme", "http")
        host = self.headers.get(b"host", b"")
        return f"{scheme}://{host.decode() if HOST.fullmatch(host) else 'localhost'}"

    async def body(self) -> bytes:
        """Read the whole body.

        Raises AnsweredEarly if it is too large, too slow or incomplete, or if the bodies of other
        requests leave no room for it. A compressed body stays compressed, and so is no JSON.
        """
        length = self.headers.get(b"content-length", b"0")
        if len(length) > 18 or (length.isdigit() and int(length) > self.body_bytes_max):
            raise AnsweredEarly(REQUEST_TOO_LARGE)
        if length.isdigit() and not self.held.fits(int(length)):
            raise AnsweredEarly(BUSY)
        parts: list[bytes] = []
        until = asyncio.get_running_loop().time() + BODY_SECONDS
        while not self.fully_read:
            parts.append(await self.next_part(until))
            if self.held.size_bytes + len(parts[-1]) > self.body_bytes_max:
                raise AnsweredEarly(REQUEST_TOO_LARGE)
            if not self.held.take(len(parts[-1])):
                raise AnsweredEarly(BUSY)
        return b"".join(parts)

    async def next_part(self, until: float = math.inf) -> bytes:
        """Return the next part of the body. `fully_read` is true after the last one.

        Raises AnsweredEarly if the part takes longer than PART_SECONDS, is not there by `until`
        (in the event loop's time), or if the connection breaks.
        """
        try:
            late = asyncio.get_running_loop().time() + PART_SECONDS
            async with asyncio.timeout_at(min(until, late)):
                message = await self.receive()
        except TimeoutError:
            raise AnsweredEarly(BODY_TOO_SLOW) from None
        if message["type"] == "http.disconnect":
            # The client disconnected, or its body was malformed. Only the latter reads this answer.
            raise AnsweredEarly(BODY_INCOMPLETE)
        self.fully_read = not message.get("more_body")
        return bytes(message.get("body", b""))


Handler = Callable[[HttpRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and its handlers. In the path `{}` matches anything but a slash, `{n}` digits."""

    path: str
    handlers: Mapping[str, Handler]
    even_when_busy: bool = False  # answered even if too many requests are in flight
    stranger_bytes_max: int | None = None  # of a body that may come without an API key

    def pattern(self) -> re.Pattern[str]:
        """Return the regular expression whose groups are the path parameters."""
        return re.compile(
            re.escape(self.path).replace(r"\{\}", "([^/]+)").replace(r"\{n\}", "([0-9]{1,9})")
        )

    def allowed_methods(self) -> tuple[str, ...]:
        """List the methods that the path answers, HEAD and OPTIONS included."""
        head = ("HEAD",) if "GET" in self.handlers else ()
        return (*self.handlers, *head, "OPTIONS")


class App:
    """The ASGI application."""

    def __init__(
        self,
        routes: Iterable[Route],
        in_flight_max: int,
        body_bytes_max: int,
        bodies_bytes_max: int,
        origins: frozenset[bytes] = frozenset(),
    ) -> None:
        self._exact = {route.path: route for route in routes if "{" not in route.path}
        self._patterns = [(route.pattern(), route) for route in routes if "{" in route.path]
        self._in_flight = 0
        self._peers: set[Any] = set()  # the addresses of their clients
        self._in_flight_max = in_flight_max
        self._body_bytes_max = body_bytes_max
        self.budget = BodyBudget(bodies_bytes_max)
        self._origins = origins
        self._counters: dict[tuple[str, int], prometheus_client.Counter] = {}
        self._timers: dict[str, prometheus_client.Histogram] = {}
        metrics.IN_FLIGHT.set_function(lambda: self._in_flight)
        metrics.BODY_BYTES.set_function(lambda: self.budget.in_use_bytes)

    @property
    def in_flight(self) -> int:
        """The number of requests that are being answered."""
        return self._in_flight

    def peers(self) -> frozenset[Any]:
        """Return the addresses of the clients whose requests are in flight. Any thread may ask."""
        return frozenset(self._peers.copy())

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        began = time.perf_counter()
        headers = dict(scope["headers"])
        id = headers.get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(id):
            id = os.urandom(8).hex().encode()
        request_id.set(id.decode())
        self._peers.add(peer := scope.get("client"))
        held = HeldBody(self.budget)
        request = HttpRequest(scope["method"], scope, headers, receive, self._body_bytes_max, held)
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
            held.release()
        try:
            self._count(route, answer.status, time.perf_counter() - began)
            await self._send(answer, request, id, send)
        finally:
            self._peers.discard(peer)
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
                    # Without a content-length, Granian sends the body chunked.
                    *([] if answer.parts else [(b"content-length", b"%d" % len(answer.body))]),
                    *CROSS_ORIGIN,
                    (b"x-b3-traceid", headers.get(b"x-b3-traceid", b"None")[:TRACE_MAX]),
                    (b"x-b3-spanid", headers.get(b"x-b3-spanid", b"None")[:TRACE_MAX]),
                    (b"x-request-id", id),
                    # Granian closes the connection after an unread body, so the client must know.
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
            for pattern, candidate in self._patterns:
                if match := pattern.fullmatch(path):
                    route, request.path_parameters = candidate, match.groups()
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
        if route.stranger_bytes_max is not None:
            request.body_bytes_max, request.held.stranger = route.stranger_bytes_max, True
        return route.path, await handler(request)

    def _origin(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        if origin is None or origin not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def _count(self, route: str, status: int, seconds: float) -> None:
        # The children are cached, because labels() takes longer than inc().
        labels = (route, status)
        if labels not in self._counters:
            self._counters[labels] = metrics.REQUESTS.labels(route, str(status))
            self._timers[route] = metrics.REQUEST_SECONDS.labels(route)
        self._counters[labels].inc()
        self._timers[route].observe(seconds)
