"""Faust's election: its timer runs in every process, and says once a second whether this one leads.

The app has no tables, so no changelog can keep it from starting. Faust only decides which process
tries to lead first: Postgres's lock decides which one does (`leader`, `rounds`).
"""

import asyncio
import time

import faust

from courant.kafka.clients import Cluster
from courant.serve import Stop
from recovery.faust import apps

NAME = "recovery.sweeps"
SAY_SECONDS = 1.0
STALE_SECONDS = 5.0
"""How long the word of a timer counts. It may be late on a busy machine."""


class Election:
    """Whether Faust has elected this process."""

    def __init__(self) -> None:
        self._elected_at = -float("inf")

    def say(self, is_leader: bool) -> None:
        """Note what Faust says now."""
        self._elected_at = time.monotonic() if is_leader else -float("inf")

    def __call__(self) -> bool:
        """Return whether this process is elected; not if Faust has stopped saying so."""
        return time.monotonic() < self._elected_at + STALE_SECONDS


def run(cluster: Cluster, replication: int, election: Election, stop: Stop) -> None:
    """Keep the election up to date until the stop."""
    asyncio.run(apps.run_until_stop(lambda: app(cluster, replication, election), stop))


def app(cluster: Cluster, replication: int, election: Election) -> faust.App:
    """Make the app, which says once a second whether it leads."""
    app = apps.app(NAME, cluster, replication)

    @app.timer(interval=SAY_SECONDS)  # type: ignore[untyped-decorator]  # Faust has no types
    async def say() -> None:
        election.say(app.is_leader())

    return app
