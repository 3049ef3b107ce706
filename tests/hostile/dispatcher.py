"""Send many requests at once, count the answers, and note each answer that is wrong."""

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from hostile.contract_refusals import ALLOWED_503, Refusal, refusals_in
from hostile.http_request import HttpRequest

CONNECTIONS = 32
ANSWER_SECONDS = 60.0  # After this time a request is stuck. Ingest answers within ten seconds.
GOOD = frozenset({200, 201})
DENIED = frozenset({400, 401, 403, 404, 405})
SHOWN = 600  # Characters that are printed of a wrong answer.
PLAIN = ("text/html", "text/plain", "application/yaml")


@dataclass
class Findings:
    """The counts of all requests and answers, and the notes about wrong answers."""

    asked: int = 0
    known: int = 0  # Requests with a valid key.
    statuses: Counter[str] = field(default_factory=Counter)
    seen: Counter[Refusal] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)  # Answered 201: content by id.
    slowest: float = 0.0  # seconds
    wrong: list[str] = field(default_factory=list)

    def took(self, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)

    def judge(self, request: HttpRequest, status: int, kind: str, body: bytes, length: int) -> None:
        """Count an answer, and note what is wrong with it."""
        self.statuses[str(status)] += 1
        if request.forged and status not in DENIED and request.method != "OPTIONS":
            self.note(request, f"got through: {status} {body[:200]!r}")
        if not body or kind.startswith(PLAIN):
            if status >= 500:
                self.note(request, f"{status} without a body")
            return
        if length != len(body):
            self.note(request, f"Content-Length is {length}, but the body has {len(body)} bytes")
        try:
            content = json.loads(body)
        except ValueError:
            self.note(request, f"{status}, but the body is not JSON: {body[:200]!r}")
            return
        if status == 201 and "data" in content:
            self.note(request, "a job was created")  # No request here is a valid job.
        elif status == 201:
            self.accepted[content["id"]] = str(content["content"])
        elif status not in GOOD:
            self.refused(request, status, content)

    def refused(self, request: HttpRequest, status: int, content: Any) -> None:
        """Count a refusal; note texts that the contract does not have, and unexpected 503s."""
        for refusal in refusals_in(status, content):
            if isinstance(refusal, str):
                self.note(request, f"not in the contract: {refusal}")
            else:
                self.seen[refusal] += 1
                if refusal in ALLOWED_503 and refusal not in request.allowed_503:
                    self.note(request, f"unexpected 503: {refusal.text}")

    def note(self, request: HttpRequest | str, problem: str) -> None:
        sent, headers = str(request), ""
        if isinstance(request, HttpRequest):
            sent = f"{request.method} {request.path[:200]} {request.body[:200]!r}"
            headers = shown(request.headers)
        self.wrong.append(f"{problem[:SHOWN]}\n    {sent}\n    {headers}")


def shown(headers: Mapping[str, str]) -> str:
    return str({name: value[:200] for name, value in headers.items()})


class Dispatcher:
    """Concurrent connections that share one sequence of requests."""

    def __init__(self, url: str, findings: Findings, connections: int = CONNECTIONS) -> None:
        self._url, self._findings, self._connections = url, findings, connections

    async def send_all(self, requests: Iterable[HttpRequest]) -> None:
        """Send all the requests, and return when each has been answered."""
        waiting = iter(requests)
        connector = aiohttp.TCPConnector(limit=self._connections)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def work() -> None:
                for request in waiting:
                    await self._one(session, request)

            await asyncio.gather(*(work() for _ in range(self._connections)))

    async def _one(self, session: aiohttp.ClientSession, request: HttpRequest) -> None:
        findings, began = self._findings, time.monotonic()
        findings.asked += 1
        findings.known += request.known
        try:
            async with session.request(
                request.method,
                URL(f"{self._url}{request.path}", encoded=True),
                data=io.BytesIO(request.body) if request.body else None,
                headers=request.headers,
                skip_auto_headers=("content-type",),
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                length = int(answer.headers.get("content-length", len(body)))
                findings.judge(request, answer.status, answer.content_type, body, length)
                if answer.status == 503 and "retry-after" not in answer.headers:
                    findings.note(request, "503 without Retry-After")
        except aiohttp.ClientError as error:
            # A client that is still sending when the server answers may see a closed connection
            # instead of the answer.
            findings.statuses["closed"] += 1
            if not request.large:
                findings.note(request, f"no answer: {error!r}")
        except TimeoutError:
            findings.statuses["stuck"] += 1
            findings.note(request, f"stuck: no answer in {ANSWER_SECONDS} s")
        findings.took(time.monotonic() - began)
