"""The leader's timer, which Faust gives to one process of all.

No tables, so that no changelog can keep it from starting; the work in a thread, since it waits for
Postgres. Faust only says who should try: Postgres's lock says who may (`lead`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import faust

from courant.errors import Unavailable
from courant.kafka.clients import Cluster
from courant.serve import Stop
from recovery import faust_apps

log = logging.getLogger(__name__)

NAME = "recovery.sweeps"
ROUND_SECONDS = 1.0


def run(
    cluster: Cluster,
    replication: int,
    go: Callable[[], None],
    resign: Callable[[], None],
    stop: Stop,
) -> None:
    """Make rounds while this process leads, until the stop."""
    # One thread: who resigns waits for the round that is under way.
    worker = ThreadPoolExecutor(1, thread_name_prefix="rounds")

    async def do(work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(worker, work)

    def made() -> faust.App:
        return make(cluster, replication, lambda leads: do(go if leads else resign), stop)

    asyncio.run(faust_apps.keep(made, stop, after=lambda: do(resign)))


def make(
    cluster: Cluster, replication: int, act: Callable[[bool], Awaitable[None]], stop: Stop
) -> faust.App:
    """Make the app, which tells `act` each second whether it leads."""
    app = faust_apps.app(NAME, cluster, replication)

    @app.timer(interval=ROUND_SECONDS)  # type: ignore[untyped-decorator]  # Faust has no types
    async def lead() -> None:
        try:
            await act(app.is_leader())
        except Unavailable as weather:
            log.warning("bad weather", extra={"reason": str(weather)})
        except Exception:
            log.exception("a round failed, the process ends")
            stop.set(failed=True)

    return app
