"""When connections run short, those that were answered longest ago are closed first."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import msgspec
import pytest
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from courant_local import ports
from ingest.http import connections
from support.ingest.world import World, api_key, email

WAIT_SECONDS = 0.05


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def is_closed(client: socket.socket) -> bool:
    client.settimeout(1.0)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


def test_the_connections_that_were_answered_longest_ago_are_closed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    with ExitStack() as held:
        clients, accepted = [], []
        for _ in range(6):
            clients.append(held.enter_context(socket.create_connection(("127.0.0.1", port))))
            accepted.append(held.enter_context(closing(listener.accept()[0])))
        for number in (0, 4, 2):  # answered in this order; 1, 3 and 5 never were
            time.sleep(WAIT_SECONDS)
            accepted[number].sendall(b"x")
            assert clients[number].recv(1) == b"x"
        clients[1].sendall(b"GET / HTTP/1.1")  # a head that never ends counts as idle
        host, from_port = clients[3].getsockname()
        busy = {(host, str(from_port))}
        assert connections.make_room(port, 6, lambda: busy) == 0
        # One of the files is closed by now, and another is no socket.
        files = [*connections.open_files(), 999_999, 0]
        monkeypatch.setattr(connections, "open_files", lambda: files)
        assert connections.make_room(port, 6, lambda: busy) == 0
        assert connections.make_room(port, 3, lambda: busy) == 3
        assert [is_closed(client) for client in clients] == [True, True, False, False, False, True]
        assert connections.make_room(port + 1, 0, lambda: busy) == 0


def test_granian_closes_the_connection_and_a_request_in_flight_is_answered() -> None:
    world, port = World(), ports.free()
    server = Server(
        world.app,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
    )

    async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(WAIT_SECONDS)

    async def scene() -> None:
        serving = asyncio.create_task(server.serve())
        idle = [await opened() for _ in range(5)]
        reader, writer = await opened()
        body = msgspec.json.encode(email())
        head = (
            "POST /v2/notifications/email HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"authorization: ApiKey-v1 {api_key(1)}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode())
        while not world.app.peers():
            await asyncio.sleep(WAIT_SECONDS)
        # At first, Granian may not have accepted all of them.
        while sum(1 for _ in connections.connections(port)) < 6:
            await asyncio.sleep(WAIT_SECONDS)
        assert connections.make_room(port, 1, world.app.peers) == 5
        for closed, _ in idle:
            assert await closed.read() == b""
        writer.write(body)
        assert (await reader.read(1_024)).startswith(b"HTTP/1.1 201")
        for _, each in (*idle, (reader, writer)):
            each.close()
        server.stop()  # type: ignore[no-untyped-call]  # Granian has no types here
        await serving

    asyncio.run(scene())
