"""What a batch costs is in proportion to what it holds: a backlog's are fifty times as large."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from courant.contracts import ENCODE
from courant.lifecycle import Move, Report, State
from courant.testing.builders import id_of, notification
from saver.store import MOVE, bounds
from saver_twins import PostgresTwin, save

REPORTS = 2_000
STEPS = 20
"""That a plan may take for each report: it reads, joins and writes each a few times."""


def test_the_moves_of_a_backlog_are_not_compared_with_each_other(engine: Engine) -> None:
    twin = PostgresTwin(engine)
    save(twin, *map(notification, range(REPORTS)))
    twin.ask("UPDATE notifications SET state = :claimed, attempt = 1", claimed=State.CLAIMED)
    reports = [Report(id_of(number), 1, Move.SENT) for number in range(REPORTS)]
    said = {"reports": ENCODE(reports).decode(), "lease": timedelta(seconds=10)}
    values = {**said, **bounds(each.id for each in reports)}
    with engine.connect() as connection:
        plan = explained(connection, MOVE, values)
        connection.rollback()
    steps = sum(map(looked_at, nodes(plan)))
    assert REPORTS < steps < STEPS * REPORTS


def explained(connection: Connection, sql: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a statement and give the plan that it took."""
    found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values).scalar()
    plan: Mapping[str, Any] = found[0]["Plan"]
    return plan


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give a plan's node and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def looked_at(node: Mapping[str, Any]) -> float:
    """Count the rows that a node gave or removed, in all its loops."""
    removed = sum(count for what, count in node.items() if what.startswith("Rows Removed"))
    rows: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return rows
