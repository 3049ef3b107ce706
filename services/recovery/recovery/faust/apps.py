"""Runs a Faust app inside this process, in a thread and a loop of its own.

Faust acknowledges an event whose handler raised, and stops when it finds no broker. So nothing that
must not be lost depends on it, and the app is started again for as long as the process lives.
"""

import asyncio
import logging
import tempfile
from collections.abc import Callable

import faust

from courant import backoff
from courant.kafka.clients import Cluster
from courant.serve import Stop

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


async def run_until_stop(make: Callable[[], faust.App], stop: Stop) -> None:
    """Run an app until the stop, again each time it has ended."""
    # While no broker answers, these log it ten times a second. The rounds log it themselves.
    for loud in ("aiokafka", "mode"):
        logging.getLogger(loud).setLevel(logging.CRITICAL)
    delays = backoff.delays()
    while not stop():
        try:
            await run_until_crash(make(), stop)  # a stopped app cannot be started again
            delays = backoff.delays()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # Faust raises anything
            log.warning("Faust does not run", extra={"reason": type(error).__name__})
        if not stop():
            await asyncio.sleep(next(delays).total_seconds())


async def run_until_crash(app: faust.App, stop: Stop) -> None:
    """Start an app, and stop it when it has crashed or at the stop."""
    app.finalize()
    try:
        await app.start()
        while not stop() and not app.crashed:
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await app.stop()


def app(name: str, cluster: Cluster, replication: int) -> faust.App:
    """Return an app of this name, which keeps its tables in memory and serves no HTTP."""
    return faust.App(
        cluster.group(name),
        broker=[f"kafka://{host.strip()}" for host in cluster.bootstrap_servers.split(",")],
        # After a leader is killed, another leads after 11 s. By default it would be 59 s.
        broker_session_timeout=10,
        broker_heartbeat_interval=3,
        # On a new cluster of three, the broker that Faust asked did not know Faust's own new topics
        # yet. No process led until Faust asked again, by default after five minutes.
        consumer_metadata_max_age_ms=5_000,
        topic_replication_factor=replication,
        store="memory://",
        datadir=tempfile.gettempdir(),
        web_enabled=False,
    )
