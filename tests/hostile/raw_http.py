"""Bytes that no HTTP library sends: broken framing, smuggling, half requests, early closes."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from courant.topics import Channel
from hostile.contract_refusals import Refusal, refusals_in
from hostile.dispatcher import ANSWER_SECONDS, CONNECTIONS, Findings
from hostile.http_request import Dice, encoded
from hostile.target import Target

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
SAID = re.compile(rb'\{"status_code":\d+,.*?\]\}')
ACCEPTED = re.compile(rb'\{"id":"([0-9a-f-]{36})","reference"')
QUIET_SECONDS = 0.2  # After the last expected answer; no other may follow in this time.
GET = b"GET /_status?simple=1 HTTP/1.1\r\nhost: x\r\n"
SMUGGLED = b"POST /smuggled HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bytes:
    """The bytes to send, and the statuses of the expected answers.

    If `wanted` is empty, the connection must be closed without an answer. If it is None, any answer
    but a 5xx is right. `ends` closes our side of the connection when all bytes are sent.
    """

    name: str
    data: bytes
    wanted: tuple[int, ...] | None
    ends: bool = False


def framing(head: bytes, body: bytes) -> Iterator[Bytes]:
    """Yield requests with right and wrong framing: lengths, chunks, both, and pipelines."""
    size, chunked = len(body), b"transfer-encoding: chunked\r\n"
    piece = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)

    def long(number: object) -> bytes:
        return b"content-length: %s\r\n" % str(number).encode()

    def sent(name: str, front: bytes, rest: bytes, *wanted: int, ends: bool = False) -> Bytes:
        return Bytes(name, head + front + b"\r\n" + rest, wanted, ends=ends)

    yield sent("good", long(size), body, 201)
    yield sent("chunked", chunked, piece, 201)
    yield sent(
        "chunks of a byte", chunked, b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n", 201
    )
    yield sent("trailers", chunked, piece[:-2] + b"x: y\r\n\r\n", 201)
    yield sent("a length too small", long(size - 5), body, 400, 400)
    yield sent("a length too large, and a wait", long(size + 5), body, 408)
    yield sent("a length too large, and an end", long(size + 5), body, 400, ends=True)
    yield sent("two lengths", long(size) + long(5), body, 400)
    yield sent("a length and chunks", long(size) + chunked, b"0\r\n\r\n" + SMUGGLED, 400)
    yield sent("chunks and a length", chunked + long(5), b"0\r\n\r\n" + SMUGGLED, 400)
    for number in ("-5", "+5", "5x", "5,5", "", "0x10", "9" * 30, "٣", "5 5"):
        yield sent(f"a length of {number}", long(number), body, 400)
    for code in (
        b"xchunked",
        b"gzip, chunked, gzip",
        b"chunked\x0b",
        b"identity",
        b"chunkedx",
        b"\x00",
    ):
        yield sent(f"coded {code!r}", b"transfer-encoding: %s\r\n" % code, piece, 400)
    for bad in (
        b"zz\r\n",
        b"-1\r\n",
        b"f" * 17 + b"\r\n",
        b"5;" + b"x" * 20_000 + b"\r\n",
        b"5\r\nabcdefgh\r\n",
        b"\r\n",
    ):
        yield sent(f"a chunk of {bad[:9]!r}", chunked, bad, 400)
    yield sent("chunks without an end", chunked, piece[:-5], 408)
    yield sent("too much, announced", long(20 * MIB), b"x", 413)
    yield sent("too much, in chunks", chunked, (b"100000\r\n" + b"x" * MIB + b"\r\n") * 16, 413)
    yield sent("with a wait for 100", long(size) + b"expect: 100-continue\r\n", body, 100, 201)
    for count in (2, 16):
        one = head + long(size) + b"\r\n" + body
        yield Bytes(f"{count} in a pipeline", one * count, (201,) * count)
    yield Bytes("one smuggled behind", head + long(0) + b"\r\n" + SMUGGLED, (400, 404))
    yield sent("gone before its body", long(size), body[:5], 400, ends=True)


def heads(authorization: bytes) -> Iterator[Bytes]:
    """Yield requests with odd request lines and headers."""

    def asked(line: bytes, *headers: bytes, end: bytes = b"\r\n") -> bytes:
        return end.join([line, b"host: x", authorization, *headers, b"", b""])

    listed = b"/v2/notifications"
    for name, data, *wanted in (
        ("good", asked(b"GET %s HTTP/1.1" % listed), 200),
        ("HTTP/9.9", asked(b"GET / HTTP/9.9"), 400),
        ("HTTP/1.0", asked(b"GET /_status HTTP/1.0"), 200),
        ("HTTP/2 by surprise", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 99),
        ("TLS", bytes.fromhex("16030100a5010000a10303") + b"\0" * 160, 400),
        ("no HTTP", b"\xff\0\1garbage\r\n\r\n", 400),
        ("no version", b"GET /\r\n\r\n", 400),
        ("only line ends", b"\r\n" * 9 + GET + b"\r\n", 200),
        ("a URL of 60,000", asked(b"GET %s?reference=%s HTTP/1.1" % (listed, b"a" * 60_000)), 431),
        ("a URL of 30,000", asked(b"GET %s?reference=%s HTTP/1.1" % (listed, b"a" * 30_000)), 200),
        ("a header of 30,000", asked(b"GET / HTTP/1.1", b"x: " + b"a" * 30_000), 200),
        ("a header of 60,000", asked(b"GET / HTTP/1.1", b"x: " + b"a" * 60_000), 431),
        ("200 headers", asked(b"GET / HTTP/1.1", *(b"x%d: y" % n for n in range(200))), 431),
        ("a path of no UTF-8", asked(b"GET %s/\xff HTTP/1.1" % listed), 400),
        ("a query of no UTF-8", asked(b"GET %s?reference=\xff HTTP/1.1" % listed), 400),
        ("a path of UTF-8", asked(b"GET %s/\xc3\xa9 HTTP/1.1" % listed), 400),
        ("a whole URL", asked(b"GET http://evil.example/_status HTTP/1.1"), 200),
        ("OPTIONS *", asked(b"OPTIONS * HTTP/1.1"), 404),
        ("CONNECT", asked(b"CONNECT evil.example:443 HTTP/1.1"), 404),
        ("a method of its own", asked(b"FROB /_status HTTP/1.1"), 405),
        ("a method of 9,000", asked(b"F" * 9_000 + b" /_status HTTP/1.1"), 405),
        ("a method in small letters", asked(b"get /_status HTTP/1.1"), 405),
        ("a NUL", asked(b"GET / HTTP/1.1", b"x: a\0b"), 400),
        ("a header's name with a space", asked(b"GET / HTTP/1.1", b"x y: z"), 400),
        ("a fold", asked(b"GET / HTTP/1.1", b"x: y", b" z"), 400),
        ("bare line feeds", asked(b"GET / HTTP/1.1", end=b"\n"), 200),
        ("a websocket", asked(b"GET /_status HTTP/1.1", b"connection: upgrade",
        b"upgrade: websocket",
                              b"sec-websocket-version: 13",
                              b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 200),
        ("HTTP/2 asked for", asked(b"GET /_status HTTP/1.1", b"connection: upgrade, http2-settings",
                                   b"upgrade: h2c", b"http2-settings: AAMAAABkAAQCAAAAAAIAAAAA"),
                                   200),
        ("a caller of no text", GET.replace(b"/_status?simple=1",
        listed) + b"authorization: Bearer \xff\xfe\r\n\r\n", 403),
        ("two credentials", GET.replace(b"/_status?simple=1",
        listed) + b"authorization: x\r\n" + authorization + b"\r\n\r\n", 200),
    ):  # fmt: skip
        yield Bytes(name, data, tuple(wanted))


def mutants(whole: bytes, dice: Dice, number: int) -> Iterator[Bytes]:
    """Yield valid requests in which a few random bytes are changed."""
    for n in range(number):
        data = bytearray(whole)
        for _ in range(dice.one([1, 1, 2, 8])):
            at, more = (
                dice.number(len(data)),
                bytes(dice.one([b"", b"\r\n", b"\0", b"\xff", b" ", b":", b"0"])),
            )
            data[at : at + dice.number(12)] = more or bytes([dice.number(256)])
        yield Bytes(f"mutant {n}", bytes(data), None, ends=True)


def every(target: Target, dice: Dice, number: int) -> list[Bytes]:
    """Return the requests of `framing` and `heads` three times, and `number` mutants."""
    authorization = f"authorization: {target.client.authorization()['authorization']}".encode()
    head = b"POST /v2/notifications/email HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += authorization + b"\r\n"
    body = encoded(target.client.body(Channel.EMAIL))
    known = [*framing(head, body), *heads(authorization)] * 3
    whole = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    return [*known, *mutants(whole, dice, number)]


async def send(port: int, findings: Findings, requests: list[Bytes]) -> None:
    """Send each request over its own connection, and judge the answers."""
    turn = asyncio.Semaphore(CONNECTIONS)

    async def work(request: Bytes) -> None:
        async with turn:
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    got = await one(port, request)
            except TimeoutError:
                findings.statuses["stuck"] += 1
                findings.note(request.name, f"stuck: neither answer nor end in {ANSWER_SECONDS} s")
            else:
                judge(findings, request, got)
            findings.took(time.monotonic() - began)

    await asyncio.gather(*map(work, requests))


async def one(port: int, sent: Bytes) -> bytes:
    """Send the bytes; read until the server closes, or all expected answers came and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        writer.write(sent.data)
        if sent.ends:
            writer.write_eof()
        while True:
            enough = sent.wanted and len(STATUS.findall(got)) >= len(sent.wanted)
            wait = QUIET_SECONDS if enough else ANSWER_SECONDS + 1
            got += (more := await asyncio.wait_for(reader.read(65_536), wait))
            if not more:
                return got
    except TimeoutError:
        if not enough:
            raise
        return got
    except OSError:
        return got  # The server closed the connection before it had read everything.
    finally:
        writer.transport.abort()


def judge(findings: Findings, sent: Bytes, got: bytes) -> None:
    """Count the answers; note a 5xx, and statuses that differ from the expected ones."""
    statuses = tuple(int(status) for status in STATUS.findall(got))
    findings.asked += 1
    for status in statuses or ("closed",):
        findings.statuses[str(status)] += 1
    for content in map(json.loads, SAID.findall(got)):
        refusals = refusals_in(content["status_code"], content)
        findings.seen.update(refusal for refusal in refusals if isinstance(refusal, Refusal))
    findings.accepted.update((id.decode(), "") for id in ACCEPTED.findall(got))
    if any(status >= 500 for status in statuses) or sent.wanted not in (None, statuses):
        findings.note(sent.name, f"wanted {sent.wanted}, got {statuses}: {got[:300]!r}")
