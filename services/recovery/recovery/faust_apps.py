"""Running a Faust app inside this process: in a thread and a loop of its own, begun anew at need.

Faust acknowledges an event whose handler raised, and gives up where there is no broker. So nothing
that must not be lost hangs on it, and it is started again for as long as the process lives.
"""

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable

import faust

from courant import backoff
from courant.kafka.clients import Cluster
from courant.serve import Stop

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2


async def nothing() -> None:
    """Do nothing after an app has stopped."""


async def keep(
    make: Callable[[], faust.App], stop: Stop, after: Callable[[], Awaitable[None]] = nothing
) -> None:
    """Run an app until the stop; what must follow each of its ends is done by `after`."""
    # While no broker is there they tell so ten times a second; the rounds tell it themselves.
    for loud in ("aiokafka", "mode"):
        logging.getLogger(loud).setLevel(logging.CRITICAL)
    delays = backoff.delays()
    while not stop():
        try:
            await live(make(), stop)  # one that stopped cannot be started again
            delays = backoff.delays()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # Faust raises what it likes
            log.warning("Faust does not run", extra={"reason": type(error).__name__})
        await after()
        if not stop():
            await asyncio.sleep(next(delays).total_seconds())


async def live(app: faust.App, stop: Stop) -> None:
    """Start an app; stop it when it crashed, or when it is time."""
    app.finalize()
    try:
        await app.start()
        while not stop() and not app.crashed:
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await app.stop()


def app(name: str, cluster: Cluster, replication: int) -> faust.App:
    """Make an app of this name. It names its group and its own topics after the app."""
    return faust.App(
        cluster.group(name),
        broker=[f"kafka://{each.strip()}" for each in cluster.bootstrap_servers.split(",")],
        # A killed leader's successor leads after 11 s; by default it would be 59 s.
        broker_session_timeout=10,
        broker_heartbeat_interval=3,
        # On a new cluster of three, Faust's own topics were made and not yet known to the broker it
        # asked: nobody led until it asked again, by default after five minutes.
        consumer_metadata_max_age_ms=5_000,
        topic_replication_factor=replication,
        store="memory://",
        datadir=tempfile.gettempdir(),
        web_enabled=False,
    )
