"""Runs a service's process: threads for its stages, health, metrics, signals, the orderly stop."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from typing import Any, NoReturn, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from courant import consume
from courant.backoff import Progress
from courant.kafka.clients import Cluster
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.runbooks import Runbook

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0001
"""How long a thread may run before another gets the interpreter. With Python's default of 5 ms the
priority lane waited that long for the bulk lane after each broker, database or provider call."""

LOOP_SECONDS = 2.5
"""How long an event loop has for its answer. It is longer than ingest waits for Kafka's
acknowledgement (1.8 s). It is shorter than a probe waits (3 s), otherwise the probe would get no
reason."""


LOOPS: list[Progress] = []
"""The loops of this process, which the health port asks."""


class Check(Protocol):
    """A readiness check: returns None if ready, otherwise the reason."""

    def __call__(self) -> str | None: ...


class Quiet(WSGIRequestHandler):
    """A request handler that logs no request, because probes come every second."""

    timeout = 5.0  # seconds for a request: each connection has a thread, and one may send nothing

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def loop(group: str, limit: int = 1) -> Progress:
    """Return the progress of a new loop that the health port asks."""
    LOOPS.append(Progress(group, limit))
    return LOOPS[-1]


def stuck() -> str | None:
    """Return which loop only a new process can continue, or None."""
    return next(filter(None, (each.stuck() for each in LOOPS)), None)


def waits() -> str | None:
    """Return which loop waits in the middle of a batch, and for what, or None."""
    return next(filter(None, (each.waits() for each in LOOPS)), None)


def health(host: str, port: int, ready: Check) -> ThreadingWSGIServer:
    """Serve `/healthz`, `/readyz` and `/metrics` in a thread.

    `/healthz` answers 200 while every loop turns, `/readyz` while the process can do its job.
    """
    metrics = make_wsgi_app()

    def app(environ: WSGIEnvironment, start: StartResponse) -> Any:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start)
            case "/healthz":
                reason = stuck()
            case "/readyz":
                reason = stuck() or waits() or ready()
            case _:
                start("404 Not Found", [])
                return []
        status = "503 Service Unavailable" if reason else "200 OK"
        start(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "ok"} if not reason else {"reason": reason}).encode()]

    server = make_server(host, port, app, ThreadingWSGIServer, Quiet)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def on_loop(
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[], Coroutine[Any, Any, str | None]],
    stopping: Callable[[], bool],
    seconds: float = LOOP_SECONDS,
) -> Check:
    """Return a check for `health` that runs `ready` on the event loop of another thread.

    The check always returns: it waits at most `seconds` for a stuck loop, and it does not ask a
    loop that stops.
    """

    def check() -> str | None:
        if stopping():
            return "the process stops"
        asked = asyncio.run_coroutine_threadsafe(ready(), loop)
        try:
            return asked.result(seconds)
        except TimeoutError:
            # Otherwise a loop that goes on would answer every probe that has already disconnected.
            asked.cancel()
            return "the event loop does not answer"
        except CancelledError:  # the loop ended while the check waited
            return "the process stops"

    return check


class Stop:
    """The request to stop. SIGTERM, SIGINT or a dead thread sets it, and every loop reads it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.failed = False

    def __call__(self) -> bool:
        return self._event.is_set()

    def listen(self) -> None:
        """Set this on SIGTERM and SIGINT. Call it from the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._event.set())

    def set(self, failed: bool = False) -> None:
        """Stop the process because its work is done, or because it failed."""
        self.failed = self.failed or failed
        self._event.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the stop is set or the time is over. Return whether it is set."""
        return self._event.wait(seconds)


def start(name: str, work: Callable[[], None], stop: Stop) -> threading.Thread:
    """Run `work` in a thread. An exception there ends the process, and a supervisor restarts it."""

    def guarded() -> None:
        try:
            work()
        # Not Exception: asyncio.CancelledError would then end the thread without a log line.
        except BaseException:
            log.exception(
                "thread died, the process ends",
                extra={"stage": name, "runbook": Runbook.THREAD_DIED},
            )
            stop.set(failed=True)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread


def run_stages(
    stages: Sequence[consume.Stage[Any]], cluster: Cluster, stop: Stop
) -> Mapping[str, threading.Thread]:
    """Start each stage with its own consumer, producer and thread. Return the threads by group."""
    sys.setswitchinterval(SWITCH_SECONDS)

    def work(stage: consume.Stage[Any]) -> None:
        progress = loop(stage.group, stage.limit)
        with closing(KafkaConsumer(cluster, stage.group, stage.topics)) as consumer:
            consume.run(
                consumer, KafkaProducer(cluster, stage.group), stage, stop, progress=progress
            )

    return {stage.group: start(stage.group, lambda s=stage: work(s), stop) for stage in stages}  # type: ignore[misc]


def leave(code: int) -> NoReturn:
    """End the process with this exit code, even if a thread still waits for a frozen dependency."""
    logging.shutdown()
    os._exit(code)


def run(threads: Mapping[str, threading.Thread], stop: Stop, leave_seconds: float = 25.0) -> int:
    """Wait for the stop, then for the threads, and return the process's exit code."""
    # Modules and parts live until the process ends, so the garbage collector need not check them.
    gc.freeze()
    stop.wait()
    log.info("stopping", extra={"failed": stop.failed})
    for name, thread in threads.items():
        thread.join(leave_seconds)
        if thread.is_alive():
            fields = {"stage": name, "runbook": Runbook.THREAD_STUCK}
            log.error("thread did not stop in time", extra=fields)
            return 1
    log.info("stopped")
    return 1 if stop.failed else 0
