"""Which HTTP stack may stand in front of the log: requests a second, each one acknowledged.

    python bench/http_stack.py [candidate …]      # also: "ingest JWT", "ingest ApiKey"

Every candidate decodes the same JSON, writes one record of 0.9 KB and answers 201 once every
in-sync replica has it. wrk asks over 64 connections; broker, load and server share the machine.
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jwt
import msgspec
import psutil
from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from courant import crypto, directory, ids, topics_admin
from courant.contracts import KeyType
from courant.directory import Key, Service, Template
from courant.kafka import KafkaProducer
from courant.records import Outgoing
from courant.topics import DIRECTORY, Channel
from courant_local import ports
from courant_local.kafka import Broker
from ingest.producer import KafkaLog

CONNECTIONS = 64
SECONDS = 6
START_SECONDS = 20
TOPIC = "inbox.email.normal"
PADDING = b"x" * 850
BODY = {
    "email_address": "someone@example.com",
    "template_id": "5f1f2f3f-0000-4000-8000-000000000001",
    "personalisation": {"name": "Ada", "reference": "AB-1234"},
    "reference": "r-1",
}
SERVICE, KEY, TEMPLATE = UUID(int=5), UUID(int=6), UUID(str(BODY["template_id"]))
SECRET = str(UUID(int=7))
SEAL_KEYS = "k1:" + base64.b64encode(bytes(32)).decode()
HASH_KEY = "a hash key for the bench"
JSON = [(b"content-type", b"application/json")]


async def body_of(receive: Callable[[], Any]) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def answer(send: Callable[[Any], Any], status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": JSON})
    await send({"type": "http.response.body", "body": body})


async def hello(_: Any, receive: Any, send: Any) -> None:
    await body_of(receive)
    await answer(send, 201, b"{}")


def accepted(body: bytes) -> tuple[Outgoing, bytes]:
    data = msgspec.json.decode(body)
    id = ids.new(datetime.now(UTC))
    return Outgoing(TOPIC, id.bytes, PADDING), msgspec.json.encode(
        {"id": id, "reference": data["reference"]}
    )


def raw(log: KafkaLog) -> Any:
    async def app(_: Any, receive: Any, send: Any) -> None:
        outgoing, told = accepted(await body_of(receive))
        await log.put(outgoing)
        await answer(send, 201, told)

    return app


def starlette(log: KafkaLog) -> Any:
    async def post(request: Request) -> Response:
        outgoing, told = accepted(await request.body())
        await log.put(outgoing)
        return Response(told, 201, media_type="application/json")

    return Starlette(routes=[Route("/v2/notifications/email", post, methods=["POST"])])


def rsgi(log: KafkaLog) -> Any:
    async def app(_: Any, protocol: Any) -> None:
        outgoing, told = accepted(await protocol())
        await log.put(outgoing)
        protocol.response_bytes(201, [("content-type", "application/json")], told)

    return app


APPS: dict[str, tuple[Interfaces, Callable[[KafkaLog], Any]]] = {
    "hello": (Interfaces.ASGINL, lambda _: hello),
    "raw ASGI": (Interfaces.ASGINL, raw),
    "Starlette": (Interfaces.ASGINL, starlette),
    "RSGI": (Interfaces.RSGI, rsgi),
}


async def serve(name: str, port: int, bootstrap: str) -> None:
    interface, make = APPS[name]
    log = KafkaLog(bootstrap, "bench")
    log.start()
    server = Server(
        make(log), "127.0.0.1", port, interface=interface, websockets=False, log_enabled=False
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


def script(folder: Path, headers: dict[str, str]) -> Path:
    """Write what wrk is to send."""
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(json.dumps(BODY))}"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    file = folder / "post.lua"
    file.write_text("\n".join(lines))
    return file


def load(url: str, post: Path, seconds: int = SECONDS) -> tuple[float, int, str]:
    """Give requests a second, answers other than 2xx and 3xx, and wrk's latency at 99 %."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(post), url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate = float(done.split("Requests/sec:")[1].split()[0])
    bad = int(done.split("Non-2xx or 3xx responses:")[1].split()[0]) if "Non-2xx" in done else 0
    return rate, bad, done.split("99%")[1].split()[0]


def measure(command: list[str], port: int, post: Path, path: str) -> str:
    """Start a server, warm it, load it, and say how it did."""
    server = subprocess.Popen(command)
    try:
        until = time.monotonic() + START_SECONDS
        while not answers(port):
            assert time.monotonic() < until, "no server"
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}{path}"
        load(url, post, 2)
        before = psutil.Process(server.pid).cpu_times()
        rate, bad, slowest = load(url, post)
        after = psutil.Process(server.pid).cpu_times()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    spent = after.user + after.system - before.user - before.system
    micros = spent / (rate * SECONDS) * 1e6
    return f"{rate:8.0f} req/s  {micros:5.0f} µs CPU a request  p99 {slowest}  not 2xx: {bad}"


def answers(port: int) -> bool:
    try:
        # Ingest is ready; the candidates answer anything at all.
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code != 503
    except httpx.TransportError:
        return False


def seed(bootstrap: str) -> None:
    """Write a service, its key and a template into the directory."""
    ring = crypto.ring(SEAL_KEYS)
    producer = KafkaProducer(bootstrap, "bench")
    secret = SECRET.encode()
    entries = (
        Service(id=SERVICE, name="Bench", rate_limit=10**8, daily_email=10**9),
        Key(
            id=KEY,
            service_id=SERVICE,
            name="bench",
            type=KeyType.NORMAL,
            secret=ring.seal(secret, owner=KEY.bytes),
            secret_hash=crypto.keyed_hash(HASH_KEY.encode(), b"secret", secret),
        ),
        Template(
            id=TEMPLATE,
            version=1,
            service_id=SERVICE,
            channel=Channel.EMAIL,
            name="bench",
            subject="News for ((name))",
            body="Dear ((name)),\n\nyour application ((reference)) has been received. " * 3,
            created_at=datetime.now(UTC),
        ),
    )
    for each in entries:
        producer.produce(Outgoing(DIRECTORY.name, each.key.encode(), directory.encode(each)))
    producer.flush()


def ingest(port: int, bootstrap: str) -> list[str]:
    """Say how ingest is started, as it is in production."""
    os.environ |= {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "DATABASE_URL": "postgresql://nobody:none@127.0.0.1:1/none",
        "COURANT_SEAL_KEYS": SEAL_KEYS,
        "COURANT_HASH_KEY": HASH_KEY,
        "COURANT_LOG_LEVEL": "warning",
        "INGEST_PORT": str(port),
    }
    return [sys.executable, "-m", "ingest"]


def authorization(name: str) -> str:
    """Give what a client of ingest sends; the candidates do not look at it."""
    if name == "ingest ApiKey":
        return f"ApiKey-v1 gcntfy-bench-{SERVICE}-{SECRET}"
    return "Bearer " + jwt.encode({"iss": str(SERVICE), "iat": int(time.time())}, SECRET, "HS256")


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, Broker() as broker:
        topics_admin.apply(topics_admin.admin(broker.bootstrap), replication=1)
        seed(broker.bootstrap)
        for name in names or list(APPS):
            port = ports.free()
            if name.startswith("ingest"):
                command = ingest(port, broker.bootstrap)
            else:
                command = [sys.executable, __file__, "serve", name, str(port), broker.bootstrap]
            headers = {"Content-Type": "application/json", "Authorization": authorization(name)}
            post = script(Path(folder), headers)
            print(f"{name:13}", measure(command, port, post, "/v2/notifications/email"), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name, port, bootstrap]:
            asyncio.run(serve(name, int(port), bootstrap))
        case names:
            main(names)
