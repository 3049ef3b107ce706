"""The leader's timer, which Faust runs in every process but lets only one of them lead.

The app has no tables, so no changelog can keep it from starting. The rounds run in a thread because
they wait for Postgres. Faust only decides which process tries to lead: Postgres's lock decides
which one does (`leader`).
"""

import asyncio
import logging
from concurrent.futures import Executor, ThreadPoolExecutor

import faust

from courant.errors import Unavailable
from courant.kafka.clients import Cluster
from courant.runbooks import Runbook
from courant.serve import Stop
from recovery import faust_apps
from recovery.rounds import Rounds

log = logging.getLogger(__name__)

NAME = "recovery.sweeps"
ROUND_SECONDS = 1.0


def run(cluster: Cluster, replication: int, rounds: Rounds, stop: Stop) -> None:
    """Make rounds while this process leads, until the stop."""
    # One thread, so that resigning waits for the round that is under way.
    worker = ThreadPoolExecutor(1, thread_name_prefix="rounds")

    async def resign() -> None:
        await asyncio.get_running_loop().run_in_executor(worker, rounds.resign)

    def make() -> faust.App:
        return app(cluster, replication, rounds, worker, stop)

    asyncio.run(faust_apps.run_until_stop(make, stop, after=resign))


def app(
    cluster: Cluster, replication: int, rounds: Rounds, worker: Executor, stop: Stop
) -> faust.App:
    """Make the app, which each second makes a round if it leads and resigns otherwise."""
    app = faust_apps.app(NAME, cluster, replication)

    @app.timer(interval=ROUND_SECONDS)  # type: ignore[untyped-decorator]  # Faust has no types
    async def lead() -> None:
        work = rounds.make_round if app.is_leader() else rounds.resign
        try:
            await asyncio.get_running_loop().run_in_executor(worker, work)
        except Unavailable as unavailable:
            log.warning("dependency unavailable, retrying", extra={"reason": str(unavailable)})
        except Exception:
            log.exception(
                "a round failed, the process ends", extra={"runbook": Runbook.RECOVERY_ROUND_FAILED}
            )
            stop.set(failed=True)

    return app
