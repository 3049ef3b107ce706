"""The process of ingest: accepts notifications, jobs and receipts over HTTP. Run several."""

import asyncio
import gc
import logging
import time

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from courant import logs, metrics, serve, settings
from courant.directory.entries import Directory
from courant.directory.follow import follow
from courant.kafka.async_producer import AsyncProducer
from courant.serve import Stop
from ingest.app import build_app
from ingest.http import connections
from ingest.http.asgi import App
from ingest.http.request_log import RequestIdFilter
from ingest.jobs import store
from ingest.jobs.store import JobStore
from ingest.read.store import Reader
from ingest.settings import IngestSettings

log = logging.getLogger(__name__)
STOP_POLL_SECONDS = 0.2
LISTEN_POLL_SECONDS = 0.02
SHUTDOWN_SECONDS = 10.0
DIRECTORY_SECONDS = 10.0  # then the port opens anyway; requests get 503 until it is read
BACKLOG = 1024
CONNECTIONS_MAX = 12_000  # further ones are not accepted
CONNECTIONS_FREE = 1_000  # if fewer are left, connections that do nothing are closed
ROOM_POLL_SECONDS = 1.0
HEAD_BYTES_MAX = 32 * 1024
"""The largest head of a request, in bytes. A slow client without a key can make ingest keep one: at
Granian's default of 400 KiB, a thousand such clients hold 400 MB."""


async def run(ingest_settings: IngestSettings, stop: Stop) -> None:
    """Serve until the stop, then finish the requests in flight."""
    directory = Directory()
    cluster = ingest_settings.cluster
    serve.start("directory", lambda: follow(directory, cluster, "ingest", stop), stop)
    producer = AsyncProducer(cluster, "ingest")
    producer.start()
    url = ingest_settings.database_url.get_secret_value()
    reader = Reader(url, ingest_settings.ingest_readers)
    slow = Reader(url, store.READERS, store.STATEMENT_SECONDS)

    listening = asyncio.Event()

    async def ready() -> str | None:
        if not directory.is_read:
            return "the directory has not been read"
        if not listening.is_set():
            return "the API does not listen yet"
        return None if await producer.acknowledges() else "Kafka does not acknowledge"

    seen = time.monotonic()
    metrics.LOOP_SILENT.set_function(lambda: time.monotonic() - seen)
    check = serve.on_loop(asyncio.get_running_loop(), ready, stop)
    serve.health(ingest_settings.ingest_health_host, ingest_settings.ingest_health_port, check)
    await wait_for_directory(directory, stop)
    jobs = JobStore(reader, slow)
    app = build_app(ingest_settings, directory, producer, reader, jobs)
    server = Server(
        app,
        ingest_settings.ingest_host,
        ingest_settings.ingest_port,
        interface=Interfaces.ASGINL,
        # A server for both HTTP versions waits for the first byte without a timeout.
        http=HTTPModes.http1,
        # One timeout for the wait on a kept-alive connection and for the head of a request.
        http1_settings=HTTP1Settings(
            header_read_timeout=ingest_settings.ingest_idle_seconds * 1_000,
            max_buffer_size=HEAD_BYTES_MAX,
        ),
        websockets=False,
        backlog=BACKLOG,
        # This limits connections, idle ones included. We limit requests in flight with a 503.
        backpressure=CONNECTIONS_MAX,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    serve.start("connections", lambda: make_room(app, ingest_settings.ingest_port, stop), stop)
    gc.freeze()  # imported modules and these objects live until the end, so never scan them
    while not stop() and not serving.done() and not await connects(ingest_settings):
        await asyncio.sleep(LISTEN_POLL_SECONDS)
    listening.set()
    log.info(
        "started", extra={"host": ingest_settings.ingest_host, "port": ingest_settings.ingest_port}
    )
    while not stop() and not producer.fatal and not serving.done():
        seen = time.monotonic()
        await asyncio.sleep(STOP_POLL_SECONDS)
    if not stop():
        stop.set(failed=True)
    log.info("stopping", extra={"in_flight": app.in_flight, "failed": stop.failed})
    server.stop()  # type: ignore[no-untyped-call]  # Granian has no types here
    await wait_for_requests(app, serving)
    producer.close()
    reader.close()
    slow.close()
    log.info("stopped")


def make_room(app: App, port: int, stop: Stop) -> None:
    """Close idle and slow connections whenever few are left."""
    while not stop.wait(ROOM_POLL_SECONDS):
        if closed := connections.make_room(port, CONNECTIONS_MAX - CONNECTIONS_FREE, app.peers):
            log.warning("connections run short, idle ones closed", extra={"closed": closed})


async def wait_for_directory(directory: Directory, stop: Stop) -> None:
    """Wait until the directory is read. Until then connections are refused, not valid keys."""
    until = asyncio.get_running_loop().time() + DIRECTORY_SECONDS
    while not directory.is_read and not stop() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)


async def connects(ingest_settings: IngestSettings) -> bool:
    """Return whether the API's port takes connections; Granian binds it in a task of its own."""
    try:
        _, writer = await asyncio.open_connection(
            ingest_settings.ingest_host, ingest_settings.ingest_port
        )
    except OSError:
        return False
    writer.close()
    return True


async def wait_for_requests(app: App, serving: asyncio.Task[None]) -> None:
    """Wait until the last request is answered, at most SHUTDOWN_SECONDS."""
    until = asyncio.get_running_loop().time() + SHUTDOWN_SECONDS
    while app.in_flight and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)
    done, _ = await asyncio.wait([serving], timeout=SHUTDOWN_SECONDS)
    for task in done:
        task.result()  # raises the error that ended the server


def main() -> int:
    """Run ingest and return the exit code."""
    ingest_settings = settings.load(IngestSettings, "ingest")
    logs.start("ingest", ingest_settings.courant_log_format, ingest_settings.courant_log_level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RequestIdFilter())
    stop = Stop()
    stop.listen()
    asyncio.run(run(ingest_settings, stop))
    return 1 if stop.failed else 0


if __name__ == "__main__":
    serve.leave(main())
