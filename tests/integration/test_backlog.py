"""A statement's cost is proportional to the rows that it names, however many other rows wait.

The planner has no statistics of rows that came after the day's last ANALYZE. A backlog consists of
such rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg2 import extensions
from sqlalchemy import Engine

from courant.contracts import ENCODE
from courant.lifecycle import Move, Report, State
from courant.postgres.database import array
from courant.testing.builders import id_of, notification
from deliverer.store import CLAIM
from saver import store
from support.costs import looked_at, nodes
from support.saver import PostgresTwin, save

KNOWN, WAITING = range(2_000), range(2_000, 22_000)
ABOUT = [id_of(number) for number in WAITING[::4]]  # Spread over all rows that wait.
STEPS = 20
"""The most rows that a plan may touch for each named row, which it reads, joins and writes."""


@pytest.fixture(scope="module", params=["known in part", "unknown"])
def waiting(engine: Engine, request: pytest.FixtureRequest) -> Engine:
    """Store rows; the planner has statistics of none of them, or of a small part."""
    twin = PostgresTwin(engine)
    twin.ask("TRUNCATE notifications, events, positions")
    save(twin, *map(notification, KNOWN))
    twin.ask("UPDATE notifications SET state = :done", done=State.DELIVERED)
    if request.param == "known in part":
        twin.ask("ANALYZE notifications")
    save(twin, *map(notification, WAITING), offset=len(KNOWN))
    return engine


@pytest.fixture
def backlog(waiting: Engine) -> Iterator[extensions.cursor]:
    with closing(waiting.raw_connection()) as connection:  # Closing it rolls back.
        yield connection.cursor()  # type: ignore[misc]  # psycopg2's own


def test_moves_cost_in_proportion_to_their_rows(backlog: extensions.cursor) -> None:
    reports = [Report(id, 1, Move.SENT) for id in ABOUT]
    values = {"reports": ENCODE(reports).decode(), "lease": timedelta(seconds=10)}
    assert steps(backlog, store.MOVE, values) < STEPS * len(ABOUT)


@pytest.mark.parametrize("short_lived", [0, 200])
def test_claims_cost_in_proportion_to_their_rows(
    backlog: extensions.cursor, short_lived: int
) -> None:
    values = {
        "scopes": ["all"],
        "lease": timedelta(seconds=10),
        "templates": array(UUID(int=number) for number in range(short_lived)),
        "versions": [1] * short_lived,
        "hours": [1] * short_lived,
    }
    # With the age limit and the skipped locks a claim looks at 20 of its rows' entries itself.
    assert steps(backlog, CLAIM, values) < 1.5 * STEPS * len(ABOUT)


def test_a_repeated_save_costs_in_proportion_to_its_rows(backlog: extensions.cursor) -> None:
    waiting = store.WAITING.replace("%s", "%(ids)s")
    assert steps(backlog, waiting, {}) < STEPS * len(ABOUT)


def steps(cursor: extensions.cursor, sql: str, values: Mapping[str, Any]) -> float:
    """Run a statement on the rows ABOUT; return how many rows and ids its plan looked at."""
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", {**values, "ids": array(ABOUT)})
    [(explained,)] = cursor.fetchall()
    counted = sum(map(looked_at, nodes(explained[0]["Plan"])))
    assert counted >= len(ABOUT)
    return counted
