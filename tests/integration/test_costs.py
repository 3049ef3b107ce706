"""Every recurring statement looks at few rows, on days full of final rows and beside a backlog.

COURANT_COSTS_FINAL and COURANT_COSTS_WAITING set other numbers of rows, and COURANT_COSTS_TABLE a
file for the table of all statements, which docs/costs.md shows.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from courant.contracts import KeyType
from courant.directory.entries import Directory, Template
from courant.lifecycle import State
from courant.postgres import database, folding, jobs, keys, refolds
from courant.testing import builders
from courant.testing.kafka import FakeProducer
from courant.testing.world import World
from courant.topics import Channel, Lane, Partition, family
from deliverer import store as deliverer_store
from ingest.read import pages
from ingest.read import store as reading
from ingest.read.pages import ListFilter
from job_runner import dispatch_store
from job_runner.dispatch import Dispatcher
from job_runner.dispatch_store import PostgresRounds
from recovery import directory, marks, rules, upkeep
from recovery import store as recovery_store
from recovery.store import PostgresStore
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from saver import aside
from saver import idempotency as saver_keys
from saver import store as saver_store
from saver.handle import fold_reports
from saver.store import PostgresStore as SaverStore
from support.costs import Costs, counted, fill, names_of
from support.roles import DELIVERER, INGEST, JOB_RUNNER, RECOVERY, SAVER
from support.saver import batch

FINAL = int(os.environ.get("COURANT_COSTS_FINAL", 42_000))
WAITING = int(os.environ.get("COURANT_COSTS_WAITING", 20_000))
TABLE = os.environ.get("COURANT_COSTS_TABLE")
LIMIT = 20
"""Rows that one run may return, and that a batch has. The real limits are larger."""
TIMES, BESIDES = 20, 5_000
"""A statement may look at so many rows for each row of its limit, and at so many besides: marks."""
MARKS_OF_A_GRACE = 20_000
"""What is looked at in the marks of 15 minutes, of all topics and with the ends in them."""
NOT_COUNTED = ("marks-all", "days-made", "days-dropped", "content", "content-jobs")
"""The first three run each hour or each ten minutes, and look at all marks or at the catalogue.
What the others look at is counted in test_retention.py, which has rows to empty."""
MODULES = (
    recovery_store, upkeep, directory, saver_store, folding, database, jobs, dispatch_store,
    deliverer_store, reading, pages, aside, saver_keys, keys, refolds,
)  # fmt: skip

LISTS = {
    "LIMIT 5000": "ingest.LOOK",
    "OFFSET 4999": "ingest.LAST_LOOKED_AT",
    "WITH mark AS": "ingest.MARKS_PASSED",
}
"""Names of statements that are put together for each request, by a part of their text."""


@pytest.fixture(scope="module")
def filled(engine: Engine) -> Iterator[Engine]:
    fill(engine, FINAL, WAITING)
    yield engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE notifications, events, marks, jobs, chunks, calls"))


@pytest.fixture(scope="module")
def costs(filled: Engine) -> Costs:
    """Run everything that runs again and again, and count."""
    costs = Costs({**names_of(*MODULES), **LISTS})
    with counted(filled, RECOVERY, costs) as engine:
        recover(engine)
    with counted(filled, JOB_RUNNER, costs) as engine:
        producer = FakeProducer(World().kafka)
        Dispatcher(PostgresRounds(engine), producer, 10.0).run_round()
    with counted(filled, SAVER, costs) as engine:
        save_and_settle(engine)
    with counted(filled, DELIVERER, costs) as engine:
        claim = deliverer_store.PostgresStore(engine, timedelta(seconds=30)).claim
        assert len(claim(waiting(filled), Channel.EMAIL, Lane.NORMAL)) == LIMIT
    with counted(filled, INGEST, costs) as engine:
        read(engine)
    return costs


def recover(engine: Engine) -> None:
    positions = {
        builders.partition(topic, n): 4 * 10**9 for topic in rules.GROUPS for n in range(24)
    }
    with engine.connect() as connection:
        store = PostgresStore(connection)
        marks.show_folded(store)
        marks.show_committed(store, positions)
        for task in TASKS:
            if task.name in NOT_COUNTED:
                continue
            producer = FakeProducer(World().kafka)
            grace = timedelta(minutes=15)
            tools = Tools(producer, published(), positions, grace)
            task.do(store, tools, LIMIT)
        ends = {Partition(each.topic, each.topic_id, 0): 4 * 10**9 for each in positions}
        store.take_mark(lambda: ends)
        marks.lift(store, timedelta(), timedelta())


def published() -> Directory:
    """Return a directory with a template whose notifications expire after two hours."""
    entries = Directory()
    entries.put(
        Template(
            id=builders.notification(0).template_id,
            version=4,
            service_id=builders.notification(0).service_id,
            channel=Channel.EMAIL,
            name="n",
            subject="s",
            body="b",
            created_at=builders.NOW,
            valid_for_hours=2,
            resend_unknown=True,
        )
    )
    entries.is_read = True
    return entries


def waiting(engine: Engine) -> list[builders.UUID]:
    sql = """SELECT id FROM notifications WHERE state = 'created' AND job_id IS NULL
        AND not_before IS NULL ORDER BY issued_at LIMIT :limit"""
    with engine.begin() as connection:
        return [id for (id,) in connection.execute(text(sql), {"limit": LIMIT})]


def save_and_settle(engine: Engine) -> None:
    store = SaverStore(engine, timedelta(seconds=30))
    new = batch(*map(builders.notification, range(LIMIT)))
    for _ in range(2):  # the second time all of it is there
        with store.fold({}) as fold:
            fold.save([each.value for each in new.kept])
    numbers = dict.fromkeys(range(LIMIT), 1)
    known = [builders.id_of(number) for number in numbers]
    opened = builders.started(1, numbers)
    sent = builders.outcomes(1, dict.fromkeys(numbers, (1, "accepted")))
    for record in (opened, sent):
        with store.fold({}) as fold:
            assert fold.lock({*known}) == (set(), {})
            fold_reports(fold, [record])


def read(engine: Engine) -> None:
    fields = builders.notification(0)
    none = frozenset({(State.CANCELLED, Channel.EMAIL)})
    few = frozenset({(State.CREATED, Channel.EMAIL)})
    with engine.connect() as connection:
        for states in (None, few, none):
            chosen = ListFilter(fields.service_id, KeyType.NORMAL, states=states)
            pages.look(chosen, None, pages.PAGE_ROWS, connection)
        values = {
            "family": family(builders.INBOX),
            "time": connection.execute(reading.NOW).scalar(),
        }
        connection.execute(reading.MARKS_PASSED, values)


def test_every_recurring_statement_looks_at_few_rows(costs: Costs) -> None:
    if TABLE:
        Path(TABLE).write_text(table(costs))
    allowed = {
        **dict.fromkeys(LISTS.values(), 6 * pages.LOOKS),
        "recovery.GROWTH": MARKS_OF_A_GRACE,
    }
    too_many = {
        name: cost.rows
        for name, cost in costs.by_statement.items()
        if cost.rows > allowed.get(name, TIMES * LIMIT + BESIDES)
    }
    assert too_many == {}


def table(costs: Costs) -> str:
    lines = [
        f"| `{name}` | {cost.rows:,.0f} | {1000 * cost.seconds:.1f} |"
        for name, cost in sorted(costs.by_statement.items())
    ]
    return "\n".join(["| statement | rows looked at | ms |", "| --- | --- | --- |", *lines, ""])
