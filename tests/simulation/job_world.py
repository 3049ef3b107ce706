"""All services run on the fakes, through all faults, until nothing happens."""

import logging
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from courant import clock, consume, ids
from courant.crypto import KeyMissing, KeyRing
from courant.errors import Unavailable
from courant.testing.builders import DELIVERY, NOW
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.tables import Tables
from courant.testing.world import TICK, Crash, Fault, World
from courant.topics import INBOX, PERSISTED, RECEIPTS, Channel, Lane
from deliverer import flight
from job_runner import handle as job_handle
from job_runner.dispatch import Dispatcher
from recovery import sweeps
from saver import handle as saver_handle
from simulation import job_recovery, outside
from simulation.job_histories import JobHistory, coming
from simulation.job_recovery import JobRecoveryRows
from simulation.job_stores import FakeJobStore, FakeRounds
from simulation.outside import Provider
from support.job_runner import RING

BULK = INBOX.topic(Channel.EMAIL, Lane.BULK)
ORDERS = PERSISTED.topic(Channel.EMAIL, Lane.BULK)
SAVED = {BULK, DELIVERY, RECEIPTS.name}
ASIDE = {"unanswered", "expired", "outlived"}
"""Sweeps left out: they count in days, which is longer than a history."""
LAG_SECONDS = 3 * TICK.total_seconds()
RECORDS_MAX = 4
"""The batch of job-runner's first stage, so small that an upload may come in several batches."""
ROUNDS = 120  # a world that is not quiet after so many rounds never will be
QUIET = 12  # rounds without any change: a lease, a grace and a mark may take so long

CALLS = [count(1)]
"""The numbers of the history's calls."""


def make_predictable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chance out of the product, so that a history runs the same way each time."""
    monkeypatch.setattr(ids, "new", lambda _: UUID(int=next(CALLS[-1])))
    monkeypatch.setattr(flight, "jitter", lambda: 0.0)
    monkeypatch.setattr(sweeps, "ORDER_WAIT", 2 * TICK)
    monkeypatch.setattr(job_recovery, "REORDERED_AFTER", TICK)
    # Otherwise rows would be years older than the histories, and too old to be claimed.
    monkeypatch.setattr(clock, "now", lambda: NOW)
    # Otherwise a history logs every batch that waits.
    logging.disable(logging.ERROR)


class LateRing(KeyRing):
    """A key ring that lacks its key until a tick."""

    def __init__(self, world: World, until: int) -> None:
        super().__init__({"1": b"k" * 32})
        self._world, self._until = world, until

    def decrypt(self, sealed: bytes, owner: bytes) -> bytes:
        if self._world.clock < self._until:
            raise KeyMissing("sealed: by a key that is not in the ring")
        return super().decrypt(sealed, owner)


def play(history: JobHistory) -> tuple[World, Provider]:
    """Run all services, one after another and through all faults, until nothing happens."""
    CALLS[:] = [count(1)]
    world = World(history.faults)
    provider = Provider(world, history.late)
    to_come = coming(history)
    folding, _ = job_handle.stages(FakeJobStore(world.store), RING)
    _, expanding = job_handle.stages(FakeJobStore(world.store), LateRing(world, history.keyless))
    folding = replace(folding, limit=RECORDS_MAX)
    others: list[consume.Stage[Any]] = [
        *(each for each in saver_handle.stages(world.store) if {*each.topics} & SAVED),
        *outside.stages(world, provider, ORDERS),
    ]
    members: dict[str, FakeConsumer] = {}  # those that are not at work now, by group
    dispatchers: list[Dispatcher] = []  # at most one, unless it is at work now

    def is_unread() -> bool:
        since, ticks = history.unread
        return world.clock in range(since, since + ticks)

    def live(stage: consume.Stage[Any]) -> None:
        consumer = members.pop(stage.group, None)
        consumer = consumer or FakeConsumer(world.kafka, stage.group, stage.topics)
        consumer.empties = consumer.rests = 0
        turns = count()
        with suppress(Crash):
            consume.run(
                consumer,
                FakeProducer(world.kafka),
                stage,
                stopping=lambda: consumer.empties > 1 or consumer.rests > 2 or next(turns) > 99,
                comparing=lambda: True,
            )
            if stage.group not in members:
                members[stage.group] = consumer
                return
        consumer.leave()

    def dispatch() -> None:
        dispatcher = (
            dispatchers.pop()
            if dispatchers
            else Dispatcher(FakeRounds(world.store), FakeProducer(world.kafka), LAG_SECONDS)
        )
        with suppress(Crash):
            with suppress(Unavailable):
                dispatcher.run_round()
            dispatchers[:] = [dispatcher]

    def meanwhile(fault: Fault) -> None:
        if fault is Fault.FREEZE:
            for stage in (folding, expanding, *others):
                world.kafka.rebalance(stage.group, [])
        # A freeze is long enough for a hold to be lifted, a lease to end and a row to be freed.
        # Other faults last one tick: less than a lease.
        for turn in range(9):
            world.clock += fault is Fault.FREEZE or turn == 4
            everybody()

    def everybody() -> None:
        while to_come and to_come[0][0] < world.clock:
            world.kafka.append(to_come.pop(0)[1])
        provider.post()
        if not is_unread():
            live(folding)
        dispatch()
        live(expanding)
        for stage in others:
            live(stage)
        outside.recover(world, JobRecoveryRows, ASIDE)

    world.meanwhile = meanwhile
    seen: list[object] = []
    for _ in range(ROUNDS):
        world.clock += 1
        everybody()
        tables = world.store.tables
        waits = sum(row.state == "claimed" for row in tables.rows.values())
        held = tables.held, tables.jobs.held
        left = len(world.faults), len(provider.coming), len(to_come), is_unread()
        seen.append((len(world.journal), left, waits, held))
        if not (to_come or is_unread() or lacks_rows(tables)) and (
            seen[-QUIET:] == seen[-1:] * QUIET
        ):
            return world, provider
    raise AssertionError("the world is never quiet")


def lacks_rows(tables: Tables) -> bool:
    """Return whether an ordered chunk of a job lacks rows, so that a sweep will order it again."""
    return any(
        row.orders and row.saved_at is None
        for id, job in tables.jobs.jobs.items()
        for row in tables.jobs.chunks_of(job.seal.upload_id)
        if not tables.jobs.cancelled(id)
    )
