"""The live figures: how many notifications each stage handled in the last minute, by lane.

A Faust app of its own sums them from `stats`. It restores its table from a changelog before it
starts, and the sweeps must not wait for that. Each recovery shows the sums of its own partitions;
Prometheus adds them up.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterable
from datetime import timedelta
from itertools import product

import faust
from prometheus_client import Gauge

from courant.contracts import Malformed, Stat
from courant.kafka.clients import Cluster
from courant.serve import Stop
from courant.topics import STATS, Lane
from recovery.faust import apps

log = logging.getLogger(__name__)

NAME = "recovery.figures"
STAGES = ("accepted", "saved", "sent", "receipts")
MINUTE, KEPT = timedelta(minutes=1), timedelta(hours=1)
WINDOW = faust.TumblingWindow(MINUTE.total_seconds(), expires=KEPT.total_seconds())
SHOW_SECONDS = 5.0

LAST_MINUTE = Gauge(
    "courant_stage_minute_notifications",
    "Notifications that a stage did in the last whole minute. Compare the stages: what is accepted "
    "and not sent waits, courant_mark_passed_age_seconds tells how long.",
    ["stage", "lane"],
)


def run(cluster: Cluster, replication: int, stop: Stop) -> None:
    """Run the app until the stop."""
    asyncio.run(apps.run_until_stop(lambda: app(cluster, replication), stop))


def app(cluster: Cluster, replication: int) -> faust.App:
    """Return the app that sums `stats` and shows the sums as metrics."""
    app = apps.app(NAME, cluster, replication)
    stats = app.topic(
        cluster.topic(STATS.name),
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    # With as many partitions as `stats`, each sum is in the process that reads its records.
    sums = app.Table("minutes", default=int, partitions=STATS.partitions)
    minutes = sums.using_window(WINDOW).relative_to_stream()

    @app.agent(stats)
    async def add(values: AsyncIterable[bytes]) -> None:
        async for value in values:
            try:
                stat = Stat.decode(value)
            except Malformed as error:
                log.warning("stat cannot be read", extra={"reason": str(error)})
                continue
            try:
                minutes[f"{stat.stage}/{stat.lane}"] += stat.count
            except faust.exceptions.PartitionsMismatch:
                continue  # at the very first start, the new changelog is not known yet

    @app.timer(interval=SHOW_SECONDS)  # type: ignore[untyped-decorator]  # Faust has no types
    async def show() -> None:
        [before] = WINDOW.ranges(time.time() - MINUTE.total_seconds())
        for stage, lane in product(STAGES, Lane):
            LAST_MINUTE.labels(stage, lane).set(sums.get((f"{stage}/{lane}", before), 0))

    return app
