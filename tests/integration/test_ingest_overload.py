"""Strangers and clients send all they may at once; ingest's memory and others' times stay bounded.

Each limit has its own test in tests/unit; this one measures the process.
"""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

import pytest

from integration.ingest_stack import Stack, stack
from support.ingest.world import EMAIL_TEMPLATE, TOPIC_ARN, api_key, email, settings
from support.waiting import ANSWER_SECONDS, BUSY_SECONDS

MIB = 1024 * 1024
BODIES, FORGED = 60, 40
MEMORY_MAX = 300 * MIB
TURN_SECONDS = 0.02
IDLE_SECONDS = 8  # the setting; its default takes longer than a test should
BALANCER_SECONDS = 60
EMAIL, BULK, RECEIPTS = "/v2/notifications/email", "/v2/notifications/bulk", "/receipts"
LARGE = 15 * MIB - 1_000
CONNECTIONS = 300
HEAD = b"GET /_status HTTP/1.1\r\nhost: x\r\nx: "


class SilentHost:
    """A host of certificates that takes connections and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.prefix = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        self._listener.setblocking(False)

    def take(self) -> int:
        """Accept what has come, and return how many connections there were in all."""
        while True:
            try:
                self.taken.append(self._listener.accept()[0])
            except BlockingIOError:
                return len(self.taken)

    def close(self) -> None:
        for each in (*self.taken, self._listener):
            each.close()


@pytest.fixture(scope="module")
def certificates() -> Iterator[SilentHost]:
    with closing(SilentHost()) as host:
        yield host


@pytest.fixture(scope="module")
def running(certificates: SilentHost) -> Iterator[Stack]:
    chosen = {"INGEST_IDLE_SECONDS": str(IDLE_SECONDS)}
    with stack(RECEIPTS_TRUSTED_CERT_PREFIX=certificates.prefix, **chosen) as started:
        yield started


def memory_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def ask(port: int, path: str, body: bytes, chunked: bool = False, **more: str) -> int:
    """Post a body over a connection of its own. Returns the status, or 0 if there was no answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = {
        "host": "x",
        "authorization": f"ApiKey-v1 {api_key(1)}",
        "content-type": "application/json",
        **({"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))}),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
    answer = asyncio.create_task(reader.read(1_024))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            for start in range(0, len(body), MIB):
                part = body[start : start + MIB]
                writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                await writer.drain()
            writer.write(b"0\r\n\r\n" if chunked else b"")
            return int((await answer)[9:12] or 0)
    except OSError:  # also TimeoutError; ingest closes the connection of a body that it refuses
        done = answer.done() and not answer.cancelled() and not answer.exception()
        return int(answer.result()[9:12] or 0) if done else 0
    finally:
        answer.cancel()
        writer.transport.abort()


def forged(certificate: str) -> bytes:
    """Return a post that names a certificate and that nobody signed."""
    envelope = {
        "Type": "Notification", "MessageId": "m", "TopicArn": TOPIC_ARN, "Message": "{}",
        "Timestamp": datetime.now(UTC).isoformat(), "SignatureVersion": "2", "Signature": "QUJD",
        "SigningCertURL": certificate,
    }  # fmt: skip
    return json.dumps(envelope).encode()


def large_bodies() -> list[tuple[str, bytes, bool]]:
    """Return bodies of 15 MiB of strangers and of clients, announced or in chunks."""
    reference = json.dumps(email(reference="r" * LARGE)).encode()[: 15 * MIB]
    lists = b'{"personalisation":{"name":[%s1]}}' % (b"[]," * (LARGE // 3 - 20))
    rows = [["email address", "name"]] + [["a@example.com", "x" * 270]] * 49_000
    bulk = {"template_id": str(EMAIL_TEMPLATE), "name": "n", "rows": rows}
    kinds = [
        (EMAIL, json.dumps(email(reference="r" * (LARGE - 300))).encode()),
        (EMAIL, lists),
        (BULK, json.dumps(bulk).encode()),
        (RECEIPTS, reference),
    ]
    return [(path, body, number % 2 == 1) for number in range(BODIES // 4) for path, body in kinds]


@dataclass
class Figures:
    """What one round of the attack showed."""

    seconds: list[float] = field(default_factory=list)  # of each request of the normal client
    answers: Counter[str] = field(default_factory=Counter)
    memory_bytes: int = 0  # the most that ingest had

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[ceil(len(self.seconds) * 0.99) - 1]


async def attack(running: Stack, host: SilentHost, turn: int) -> Figures:
    """Send everything at once, with a normal client beside it."""
    port, pid = int(running.base.rpartition(":")[2]), running.ingest.pid
    figures, done = Figures(), asyncio.Event()

    async def normal() -> None:
        body = json.dumps(email()).encode()
        while not done.is_set():
            began = time.monotonic()
            figures.answers[f"normal {await ask(port, EMAIL, body)}"] += 1
            figures.seconds.append(time.monotonic() - began)
            figures.memory_bytes = max(figures.memory_bytes, memory_bytes(pid))
            await asyncio.sleep(TURN_SECONDS)

    async def one(path: str, body: bytes, chunked: bool) -> None:
        figures.answers[f"{path} {await ask(port, path, body, chunked)}"] += 1

    async def forge(number: int) -> None:
        url = f"{host.prefix}/SimpleNotificationService-{number:032x}.pem"
        figures.answers[f"forged {await ask(port, RECEIPTS, forged(url))}"] += 1

    beside = asyncio.create_task(normal())
    await asyncio.gather(
        *(one(*body) for body in large_bodies()),
        *(forge(turn * FORGED + number) for number in range(FORGED)),
    )
    done.set()
    await beside
    return figures


def test_large_bodies_and_forged_certificates_do_not_harm_others(
    running: Stack, certificates: SilentHost
) -> None:
    before, began = memory_bytes(running.ingest.pid), time.monotonic()
    figures = asyncio.run(attack(running, certificates, 0))
    fetches = certificates.take()
    # Times are only shown, because a test must not depend on how fast the machine is.
    print(  # noqa: T201  # the figures of this test
        f"{before // MIB} MiB before, {figures.memory_bytes // MIB} at most; "
        f"{len(figures.seconds)} normal requests, p99 {figures.p99:.3f} s, "
        f"slowest {max(figures.seconds):.3f} s; {fetches} fetches; "
        f"{dict(sorted(figures.answers.items()))}"
    )
    normal = {name for name in figures.answers if name.startswith("normal")}
    assert normal == {"normal 201"}
    assert figures.answers["forged 503"] == FORGED
    assert figures.memory_bytes <= MEMORY_MAX
    # Two at a time, and each gives up after five seconds.
    assert fetches <= 2 * ((time.monotonic() - began) / 5 + 1)


async def hold_heads(port: int, pid: int) -> int:
    """Send large heads that never end. Returns how much memory ingest has while they are open."""
    writers = []
    for _ in range(CONNECTIONS):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"y" * 400_000)
        writers.append(writer)
    await asyncio.sleep(1.0)
    held = memory_bytes(pid)
    for writer in writers:
        writer.transport.abort()
    return held


def test_heads_that_never_end_take_little_memory(running: Stack) -> None:
    pid = running.ingest.pid
    before = memory_bytes(pid)
    held = asyncio.run(hold_heads(int(running.base.rpartition(":")[2]), pid))
    print({"MiB before": before // MIB, "MiB with heads": held // MIB})  # noqa: T201  # as above
    assert held - before < 40 * MIB


async def idle_seconds(port: int, longer: float) -> float | None:
    """Return after how many seconds ingest closes a connection that it answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /_status?simple=1 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.read(1_024)).startswith(b"HTTP/1.1 200")
    began = time.monotonic()
    try:
        await asyncio.wait_for(reader.read(), longer)
    except TimeoutError:
        return None
    finally:
        writer.transport.abort()
    return time.monotonic() - began


def test_an_idle_connection_lives_as_long_as_is_set_and_longer_than_a_balancers(
    running: Stack,
) -> None:
    port = int(running.base.rpartition(":")[2])
    seconds = asyncio.run(idle_seconds(port, IDLE_SECONDS + BUSY_SECONDS))
    print({"closed after": seconds})  # noqa: T201  # as above
    assert seconds
    assert seconds > IDLE_SECONDS - 1
    assert settings().ingest_idle_seconds > BALANCER_SECONDS
