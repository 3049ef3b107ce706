"""Clients in numbers: idle, slow, unfinished, all at once; and one as it should be."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import aiohttp

from courant import ids
from hostile.asks import EMAIL, LIST, Ask
from hostile.crowd import ANSWER_SECONDS, Tally
from hostile.place import Place, now
from hostile.promised import BUSY, NOT_READABLE, NOT_YET
from support.waiting import BUSY_SECONDS

UNFINISHED = 2_100  # ingest answers 2,000 at once
IDLE, SLOW = 500, 100
HEAD_SECONDS = 30.0 + BUSY_SECONDS  # in which a head must have come, or the connection is closed
BETWEEN_SECONDS = 0.1


@dataclass
class Normal:
    """A client that sends one after another, and how long each took."""

    place: Place
    tally: Tally
    seconds: list[float] = field(default_factory=list)

    async def send(self) -> tuple[int, bytes]:
        """Send one; gives the answer."""
        headers = self.place.client.authorization()
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(self.place.stack.url, timeout=timeout) as session,
            session.post(EMAIL, json=self.place.client.body(), headers=headers) as answer,
        ):
            body = await answer.read()
            ask = Ask("POST", EMAIL, headers, known=True, calm=(BUSY,))
            self.tally.judge(ask, answer.status, answer.content_type, body, len(body))
        self.tally.asked += 1
        self.tally.known += 1
        self.seconds.append(time.monotonic() - began)
        return answer.status, body

    async def until(self, seconds: float) -> None:
        """Go on for so long, and note what is not accepted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status, body = await self.send()
            if status != 201:
                self.tally.note("a normal client", f"{status}: {body!r}")
            await asyncio.sleep(BETWEEN_SECONDS)


async def idle(port: int) -> list[asyncio.StreamWriter]:
    """Open connections and say nothing."""
    opened = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE))
    )
    return [writer for _, writer in opened]


async def slow(port: int, tally: Tally) -> None:
    """Send a head that never ends, a byte a second, until the other side has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tally.asked += 1
    closed = asyncio.create_task(reader.read())
    writer.write(b"GET /_status HTTP/1.1\r\nhost: x\r\nx: ")
    until = time.monotonic() + HEAD_SECONDS
    while not closed.done() and time.monotonic() < until:
        writer.write(b"y")
        await asyncio.wait([closed], timeout=1)
    tally.statuses["closed" if closed.done() else "stuck"] += 1
    if not closed.done():
        tally.note("slow head", f"still open after {HEAD_SECONDS} s")
    closed.cancel()
    writer.transport.abort()


async def unfinished(place: Place, tally: Tally) -> None:
    """Fill every place with bodies that do not come; they are let go, and a good one gets in."""
    port = int(place.stack.url.rpartition(":")[2])
    authorization = place.client.authorization()["authorization"].encode()
    heads = [
        b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: %s\r\ncontent-type: application/json\r\n"
        b"content-length: 9\r\n\r\n{" % (path, authorization)
        for path in (EMAIL.encode(), b"/receipts")
    ]
    told: list[bytes] = []

    async def hang(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tally.asked += 1
        tally.known += 1 - number % 2
        writer.write(heads[number % 2])
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                told.append((await reader.read())[9:12])
        except OSError as error:  # a time that is over is one as well
            told.append(type(error).__name__.encode())
        writer.transport.abort()

    hanging = [asyncio.create_task(hang(number)) for number in range(UNFINISHED)]
    normal = Normal(place, tally)
    until = time.monotonic() + ANSWER_SECONDS
    busy = False
    while not busy and time.monotonic() < until:
        status, body = await normal.send()
        busy = status == 503 and b"Too many requests" in body
        await asyncio.sleep(0.02)
    await asyncio.gather(*hanging)
    tally.statuses.update(each.decode() for each in told)
    if not busy or set(told) != {b"408", b"503"}:
        tally.note(
            "unfinished bodies",
            f"busy: {busy}; answers: { {each: told.count(each) for each in set(told)} }",
        )
    if (await normal.send())[0] != 201:
        tally.note("after unfinished bodies", "a good one is not accepted")


def young(place: Place) -> Iterator[Ask]:
    """Read what may still be on its way, and lists, more at once than anybody may."""
    headers = place.client.authorization()
    calm = (NOT_YET, NOT_READABLE)
    for number in range(400):
        id = ids.new(now() + timedelta(seconds=number % 3))
        yield Ask("GET", f"{LIST}/{id}", headers, known=True, calm=calm)
        yield Ask("GET", LIST, headers, known=True, calm=calm)


def unstored(place: Place, accepted: dict[str, str]) -> set[UUID]:
    """Give those of the accepted that have neither a row nor another's in their place."""
    # Nothing is stored of what goes to a simulated recipient; its id says so.
    wanted = {UUID(each) for each in accepted if UUID(each).version != 4}
    found = place.stack.sql("SELECT id::text FROM notifications UNION SELECT id::text FROM aliases")
    return wanted - {UUID(each) for (each,) in found}
