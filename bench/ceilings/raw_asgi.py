"""The ceiling of accepting: the same server and the same log, and no check at all.

    python -m bench.ceilings.raw_asgi PORT

Decodes the body, writes a record as large as ingest's, answers 201 once every in-sync replica has
it. Kafka is named by KAFKA_BOOTSTRAP_SERVERS.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from granian.constants import Interfaces
from granian.server.embed import Server

from courant import ids
from courant.kafka.async_producer import AsyncProducer
from courant.kafka.clients import Cluster
from courant.records import Outgoing
from courant.topics import INBOX, Channel, Lane

TOPIC = INBOX.topic(Channel.EMAIL, Lane.NORMAL)
RECORD = b"x" * 640
"""Padding, so that the record has as many bytes as ingest's record of the same request."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def raw(log: AsyncProducer) -> Any:
    """Return the application."""

    async def app(_: Any, receive: Receive, send: Send) -> None:
        outgoing, told = accepted(await body_of(receive))
        await log.put(outgoing)
        await answer(send, 201, told)

    return app


def accepted(body: bytes) -> tuple[Outgoing, bytes]:
    """Return the record and the answer's body."""
    data = msgspec.json.decode(body)
    id = ids.new(datetime.now(UTC))
    told = msgspec.json.encode({"id": id, "reference": data.get("reference")})
    return Outgoing(TOPIC, id.bytes, RECORD), told


async def body_of(receive: Receive) -> bytes:
    """Read a request's body."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def answer(send: Send, status: int, body: bytes) -> None:
    """Answer with JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(
    make: Callable[[AsyncProducer], Any], port: int, interface: Interfaces = Interfaces.ASGINL
) -> None:
    """Serve an application with ingest's server settings, until TERM."""
    log = AsyncProducer(Cluster(os.environ["KAFKA_BOOTSTRAP_SERVERS"]), "bench")
    log.start()
    server = Server(
        make(log), "127.0.0.1", port, interface=interface, websockets=False, log_enabled=False
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    asyncio.run(serve(raw, int(sys.argv[1])))
