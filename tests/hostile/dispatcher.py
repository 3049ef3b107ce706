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
from hostile.asks import Ask
from hostile.promised import CALM, Refusal, named
from yarl import URL

CONNECTIONS = 32
ANSWER_SECONDS = 60.0  # After this time a request is stuck. Ingest answers within ten seconds.
GOOD = frozenset({200, 201})
DENIED = frozenset({400, 401, 403, 404, 405})
SHOWN = 600  # Characters that are printed of a wrong answer.
PLAIN = ("text/html", "text/plain", "application/yaml")


@dataclass
class Tally:
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

    def judge(self, ask: Ask, status: int, kind: str, body: bytes, length: int) -> None:
        """Count an answer, and note what is wrong with it."""
        self.statuses[str(status)] += 1
        if ask.forged and status not in DENIED and ask.method != "OPTIONS":
            self.note(ask, f"got through: {status} {body[:200]!r}")
        if not body or kind.startswith(PLAIN):
            if status >= 500:
                self.note(ask, f"{status} without a body")
            return
        if length != len(body):
            self.note(ask, f"Content-Length is {length}, but the body has {len(body)} bytes")
        try:
            content = json.loads(body)
        except ValueError:
            self.note(ask, f"{status}, but the body is not JSON: {body[:200]!r}")
            return
        if status == 201 and "data" in content:
            self.note(ask, "a job was created")  # No request here is a valid job.
        elif status == 201:
            self.accepted[content["id"]] = str(content["content"])
        elif status not in GOOD:
            self.refused(ask, status, content)

    def refused(self, ask: Ask, status: int, content: Any) -> None:
        """Count a refusal; note texts that the contract does not have, and unexpected 503s."""
        for refusal in named(status, content):
            if isinstance(refusal, str):
                self.note(ask, f"not in the contract: {refusal}")
            else:
                self.seen[refusal] += 1
                if refusal in CALM and refusal not in ask.calm:
                    self.note(ask, f"unexpected 503: {refusal.text}")

    def note(self, ask: Ask | str, problem: str) -> None:
        sent = ask if isinstance(ask, str) else f"{ask.method} {ask.path[:200]} {ask.body[:200]!r}"
        headers = "" if isinstance(ask, str) else shown(ask.headers)
        self.wrong.append(f"{problem[:SHOWN]}\n    {sent}\n    {headers}")


def shown(headers: Mapping[str, str]) -> str:
    return str({name: value[:200] for name, value in headers.items()})


class Crowd:
    """Concurrent connections that share one sequence of requests."""

    def __init__(self, url: str, tally: Tally, connections: int = CONNECTIONS) -> None:
        self._url, self._tally, self._connections = url, tally, connections

    async def ask(self, asks: Iterable[Ask]) -> None:
        """Send all the requests, and return when each has been answered."""
        waiting = iter(asks)
        connector = aiohttp.TCPConnector(limit=self._connections)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def work() -> None:
                for ask in waiting:
                    await self._one(session, ask)

            await asyncio.gather(*(work() for _ in range(self._connections)))

    async def _one(self, session: aiohttp.ClientSession, ask: Ask) -> None:
        tally, began = self._tally, time.monotonic()
        tally.asked += 1
        tally.known += ask.known
        try:
            async with session.request(
                ask.method,
                URL(f"{self._url}{ask.path}", encoded=True),
                data=io.BytesIO(ask.body) if ask.body else None,
                headers=ask.headers,
                skip_auto_headers=("content-type",),
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                length = int(answer.headers.get("content-length", len(body)))
                tally.judge(ask, answer.status, answer.content_type, body, length)
                if answer.status == 503 and "retry-after" not in answer.headers:
                    tally.note(ask, "503 without Retry-After")
        except aiohttp.ClientError as error:
            # A client that is still sending when the server answers may see a closed connection
            # instead of the answer.
            tally.statuses["closed"] += 1
            if not ask.large:
                tally.note(ask, f"no answer: {error!r}")
        except TimeoutError:
            tally.statuses["stuck"] += 1
            tally.note(ask, f"stuck: no answer in {ANSWER_SECONDS} s")
        tally.took(time.monotonic() - began)
