"""Ingest: accepts over HTTP what is to be sent, and takes receipts. One process; run several."""

import asyncio
import gc
import logging
import time

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from courant import logs, metrics, serve, settings
from courant.directory.entries import Directory
from courant.directory.follow import follow
from courant.kafka.async_producer import AsyncProducer
from courant.serve import Stop
from ingest import app as build
from ingest.http.asgi import App, RequestIdFilter
from ingest.jobs import store
from ingest.jobs.store import JobStore
from ingest.read.store import Reader
from ingest.settings import IngestSettings

log = logging.getLogger(__name__)
STOP_POLL_SECONDS = 0.2
LISTEN_LOOK_SECONDS = 0.02
SHUTDOWN_SECONDS = 10.0
DIRECTORY_SECONDS = 10.0  # then it is heard all the same, and says what it waits for
BACKLOG = 1024
CONNECTIONS_MAX = 12_000  # beyond which nobody is heard; idle ones are let go after 30 s


async def run(given: IngestSettings, stop: Stop) -> None:
    """Serve until the stop; then finish what is in flight."""
    directory = Directory()
    cluster = given.cluster
    serve.start("directory", lambda: follow(directory, cluster, "ingest", stop), stop)
    producer = AsyncProducer(cluster, "ingest")
    producer.start()
    url = given.database_url.get_secret_value()
    reader = Reader(url, given.ingest_readers)
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
    serve.health(given.ingest_health_host, given.ingest_health_port, check)
    await wait_for_directory(directory, stop)
    jobs = JobStore(reader, slow)
    app = build.build_app(given, directory, producer, reader, jobs)
    server = Server(
        app,
        given.ingest_host,
        given.ingest_port,
        interface=Interfaces.ASGINL,
        # Who listens for both versions waits for a first byte without end.
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        # Of connections, also idle ones. What is in flight we limit ourselves, with an answer.
        backpressure=CONNECTIONS_MAX,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    gc.freeze()  # what was imported and built lives for good
    while not stop() and not serving.done() and not await connects(given):
        await asyncio.sleep(LISTEN_LOOK_SECONDS)
    listening.set()
    log.info("started", extra={"host": given.ingest_host, "port": given.ingest_port})
    while not stop() and not producer.fatal and not serving.done():
        seen = time.monotonic()
        await asyncio.sleep(STOP_POLL_SECONDS)
    if not stop():
        stop.set(failed=True)
    log.info("stopping", extra={"in_flight": app.in_flight, "failed": stop.failed})
    server.stop()  # type: ignore[no-untyped-call]  # granian's own
    await wait_for_requests(app, serving)
    producer.close()
    reader.close()
    slow.close()
    log.info("stopped")


async def wait_for_directory(directory: Directory, stop: Stop) -> None:
    """Wait until the keys are known: until then a client's connection is refused, not its key."""
    until = asyncio.get_running_loop().time() + DIRECTORY_SECONDS
    while not directory.is_read and not stop() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)


async def connects(given: IngestSettings) -> bool:
    """Return whether the API's port takes connections; Granian binds it in a task of its own."""
    try:
        _, writer = await asyncio.open_connection(given.ingest_host, given.ingest_port)
    except OSError:
        return False
    writer.close()
    return True


async def wait_for_requests(app: App, serving: asyncio.Task[None]) -> None:
    """Wait until the last request is answered, but not for ever."""
    until = asyncio.get_running_loop().time() + SHUTDOWN_SECONDS
    while app.in_flight and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)
    done, _ = await asyncio.wait([serving], timeout=SHUTDOWN_SECONDS)
    for task in done:
        task.result()  # raises what ended it


def main() -> int:
    """Run ingest; gives the exit code."""
    given = settings.load(IngestSettings, "ingest")
    logs.start("ingest", given.courant_log_format, given.courant_log_level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RequestIdFilter())
    stop = Stop()
    stop.listen()
    asyncio.run(run(given, stop))
    return 1 if stop.failed else 0


if __name__ == "__main__":
    serve.leave(main())
