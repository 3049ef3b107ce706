"""What a statement costs is in proportion to the rows that it is about, however many wait.

The planner knows nothing of rows that came after the day was last analysed, as a backlog's all do.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from psycopg2 import extensions
from sqlalchemy import Engine

from courant.contracts import ENCODE
from courant.lifecycle import Move, Report, State
from courant.postgres.database import array
from courant.testing.builders import id_of, notification
from deliverer.store import CLAIM
from saver import store
from support.saver import PostgresTwin, save

KNOWN, WAITING = range(2_000), range(2_000, 22_000)
ABOUT = [id_of(number) for number in WAITING[::4]]  # spread over all that wait
STEPS = 20
"""That a plan may take for each row: it reads, joins and writes each a few times."""


@pytest.fixture(scope="module", params=["known in part", "unknown"])
def waiting(engine: Engine, request: pytest.FixtureRequest) -> Engine:
    """Put rows there, of most of which, or all, the planner does not know."""
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
    with closing(waiting.raw_connection()) as connection:  # which is rolled back then
        yield connection.cursor()  # type: ignore[misc]  # psycopg2's own


def test_moves(backlog: extensions.cursor) -> None:
    reports = [Report(id, 1, Move.SENT) for id in ABOUT]
    values = {"reports": ENCODE(reports).decode(), "lease": timedelta(seconds=10)}
    assert steps(backlog, store.MOVE, values) < STEPS * len(ABOUT)


def test_claims(backlog: extensions.cursor) -> None:
    values = {"scopes": ["all"], "lease": timedelta(seconds=10)}
    assert steps(backlog, CLAIM, values) < STEPS * len(ABOUT)


def test_rows_that_are_saved_again(backlog: extensions.cursor) -> None:
    waiting = store.WAITING.replace("%s", "%(ids)s")
    assert steps(backlog, waiting, {}) < STEPS * len(ABOUT)


def steps(cursor: extensions.cursor, sql: str, values: Mapping[str, Any]) -> float:
    """Run a statement about those rows; count what its plan looked at on the way."""
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", {**values, "ids": array(ABOUT)})
    [(found,)] = cursor.fetchall()
    counted = sum(map(looked_at, nodes(found[0]["Plan"])))
    assert counted >= len(ABOUT)
    return counted


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give a plan's node and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def looked_at(node: Mapping[str, Any]) -> float:
    """Count the rows that a node gave or removed, and the ids that it looked for, in all its loops.

    An index is asked for a list of ids by sorting the list first, each time that it is asked.
    """
    removed = sum(count for what, count in node.items() if what.startswith("Rows Removed"))
    wanted = node.get("Index Cond", "").count(",")
    seen: float = (node["Actual Rows"] + removed + wanted) * node["Actual Loops"]
    return seen
