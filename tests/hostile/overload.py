"""Many clients at once: idle, slow or with unfinished bodies; and a normal one beside them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import aiohttp

from courant import ids
from hostile.contract_refusals import BUSY, NOT_READABLE, NOT_YET
from hostile.dispatcher import ANSWER_SECONDS, Findings
from hostile.http_request import EMAIL, LIST, HttpRequest
from hostile.target import Target, now
from support.waiting import BUSY_SECONDS

UNFINISHED = 2_100  # Ingest answers 2,000 requests at once.
IDLE, SLOW = 500, 100
# Ingest closes a connection whose request head is not complete after INGEST_IDLE_SECONDS.
HEAD_SECONDS = 30.0 + BUSY_SECONDS
BETWEEN_SECONDS = 0.1


@dataclass
class NormalClient:
    """A client that sends one email after another and measures each."""

    target: Target
    findings: Findings
    seconds: list[float] = field(default_factory=list)

    async def send(self) -> tuple[int, bytes]:
        """Send an email; return the answer's status and body."""
        headers = self.target.client.authorization()
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(self.target.stack.url, timeout=timeout) as session,
            session.post(EMAIL, json=self.target.client.body(), headers=headers) as answer,
        ):
            body = await answer.read()
            request = HttpRequest("POST", EMAIL, headers, known=True, allowed_503=(BUSY,))
            self.findings.judge(request, answer.status, answer.content_type, body, len(body))
        self.findings.asked += 1
        self.findings.known += 1
        self.seconds.append(time.monotonic() - began)
        return answer.status, body

    async def until(self, seconds: float) -> None:
        """Send emails for this long, and note each one that is not accepted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status, body = await self.send()
            if status != 201:
                self.findings.note("a normal client", f"{status}: {body!r}")
            await asyncio.sleep(BETWEEN_SECONDS)


async def idle(port: int) -> list[asyncio.StreamWriter]:
    """Open connections and send nothing over them."""
    opened = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE))
    )
    return [writer for _, writer in opened]


async def slow(port: int, findings: Findings) -> None:
    """Send a request head that never ends, a byte a second, until ingest closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    findings.asked += 1
    closed = asyncio.create_task(reader.read())
    writer.write(b"GET /_status HTTP/1.1\r\nhost: x\r\nx: ")
    until = time.monotonic() + HEAD_SECONDS
    while not closed.done() and time.monotonic() < until:
        writer.write(b"y")
        await asyncio.wait([closed], timeout=1)
    findings.statuses["closed" if closed.done() else "stuck"] += 1
    if not closed.done():
        findings.note("slow head", f"still open after {HEAD_SECONDS} s")
    closed.cancel()
    writer.transport.abort()


async def unfinished(target: Target, findings: Findings) -> None:
    """Occupy every slot of ingest with requests whose bodies never arrive.

    Ingest must answer them 408 or 503, and then accept a normal request again.
    """
    port = int(target.stack.url.rpartition(":")[2])
    authorization = target.client.authorization()["authorization"].encode()
    heads = [
        b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: %s\r\ncontent-type: application/json\r\n"
        b"content-length: 9\r\n\r\n{" % (path, authorization)
        for path in (EMAIL.encode(), b"/receipts")
    ]
    answers: list[bytes] = []

    async def hang(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        findings.asked += 1
        findings.known += 1 - number % 2
        writer.write(heads[number % 2])
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers.append((await reader.read())[9:12])
        except OSError as error:  # TimeoutError is an OSError too.
            answers.append(type(error).__name__.encode())
        writer.transport.abort()

    hanging = [asyncio.create_task(hang(number)) for number in range(UNFINISHED)]
    normal = NormalClient(target, findings)
    until = time.monotonic() + ANSWER_SECONDS
    busy = False
    while not busy and time.monotonic() < until:
        status, body = await normal.send()
        busy = status == 503 and b"Too many requests" in body
        await asyncio.sleep(0.02)
    await asyncio.gather(*hanging)
    findings.statuses.update(answer.decode() for answer in answers)
    if not busy or set(answers) != {b"408", b"503"}:
        counts = {answer: answers.count(answer) for answer in set(answers)}
        findings.note("unfinished bodies", f"busy: {busy}; answers: {counts}")
    if (await normal.send())[0] != 201:
        findings.note("after unfinished bodies", "a normal request is not accepted")


def young(target: Target) -> Iterator[HttpRequest]:
    """Yield reads of ids so new that their rows may still come, and more lists than may run."""
    headers = target.client.authorization()
    allowed_503 = (NOT_YET, NOT_READABLE)
    for number in range(400):
        id = ids.new(now() + timedelta(seconds=number % 3))
        yield HttpRequest("GET", f"{LIST}/{id}", headers, known=True, allowed_503=allowed_503)
        yield HttpRequest("GET", LIST, headers, known=True, allowed_503=allowed_503)


def unstored(target: Target, accepted: dict[str, str]) -> set[UUID]:
    """Return the accepted ids that have neither a row nor an alias."""
    # A notification to a simulated recipient is not stored. Its id is a random UUID, version 4.
    expected = {UUID(id) for id in accepted if UUID(id).version != 4}
    rows = target.stack.sql("SELECT id::text FROM notifications UNION SELECT id::text FROM aliases")
    return expected - {UUID(id) for (id,) in rows}
