"""Asks, counts what is answered, and remembers what must not be."""

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

from hostile.asks import Ask
from hostile.promised import CALM, Refusal, named

CONNECTIONS = 32
ANSWER_SECONDS = 60.0  # after which a request is stuck: the product answers within ten
GOOD = frozenset({200, 201})
DENIED = frozenset({400, 401, 403, 404, 405})
SHOWN = 600  # characters of what was wrong
PLAIN = ("text/html", "text/plain", "application/yaml")


@dataclass
class Tally:
    """What came of all requests."""

    asked: int = 0
    known: int = 0  # with a good key
    statuses: Counter[str] = field(default_factory=Counter)
    seen: Counter[Refusal] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)  # 201: the id, and who it goes to
    slowest: float = 0.0  # seconds
    wrong: list[str] = field(default_factory=list)

    def took(self, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)

    def judge(self, ask: Ask, status: int, kind: str, body: bytes, length: int) -> None:
        """Count an answer; note it where it is wrong."""
        self.statuses[str(status)] += 1
        if ask.forged and status not in DENIED and ask.method != "OPTIONS":
            self.note(ask, f"got through: {status} {body[:200]!r}")
        if not body or kind.startswith(PLAIN):
            if status >= 500:
                self.note(ask, f"{status}, and nothing said")
            return
        if length != len(body):
            self.note(ask, f"{length} bytes were announced, {len(body)} came")
        try:
            said = json.loads(body)
        except ValueError:
            self.note(ask, f"{status}, and no JSON: {body[:200]!r}")
            return
        if status == 201 and "data" in said:
            self.note(ask, "a job was made of it")  # which none is asked for
        elif status == 201:
            self.accepted[said["id"]] = str(said["content"])
        elif status not in GOOD:
            self.refused(ask, status, said)

    def refused(self, ask: Ask, status: int, said: Any) -> None:
        """Count what a refusal says: each text must be promised, and a 503 asked for."""
        for each in named(status, said):
            if isinstance(each, str):
                self.note(ask, f"nobody promised: {each}")
            else:
                self.seen[each] += 1
                if each in CALM and each not in ask.calm:
                    self.note(ask, f"out of turn: {each.text}")

    def note(self, ask: Ask | str, what: str) -> None:
        told = ask if isinstance(ask, str) else f"{ask.method} {ask.path[:200]} {ask.body[:200]!r}"
        self.wrong.append(
            f"{what[:SHOWN]}\n    {told}\n    {'' if isinstance(ask, str) else shown(ask.headers)}"
        )


def shown(headers: Mapping[str, str]) -> str:
    return str({name: value[:200] for name, value in headers.items()})


class Crowd:
    """So many clients at once, which take the requests in turn."""

    def __init__(self, url: str, tally: Tally, connections: int = CONNECTIONS) -> None:
        self._url, self._tally, self._connections = url, tally, connections

    async def ask(self, asks: Iterable[Ask]) -> None:
        """Ask all, and come back when each is answered."""
        those = iter(asks)
        connector = aiohttp.TCPConnector(limit=self._connections)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def work() -> None:
                for each in those:
                    await self._one(session, each)

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
            # Who is still talking when the answer comes may see no more than the hang-up.
            tally.statuses["closed"] += 1
            if not ask.large:
                tally.note(ask, f"no answer: {error!r}")
        except TimeoutError:
            tally.statuses["stuck"] += 1
            tally.note(ask, f"stuck: no answer in {ANSWER_SECONDS} s")
        tally.took(time.monotonic() - began)
