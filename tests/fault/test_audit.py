"""Rows are deleted by hand: the audit finds them, and `courant restore` brings them back."""

import json
import time
import urllib.request
from typing import Any

from fault.harness import Harness
from support.waiting import ANSWER_SECONDS, wait

ACCEPTED, DELETED = 60, 10
PROMISED_SECONDS = 60.0
LINE = "accepted notifications are missing in Postgres"
SOME = "SELECT id::text FROM notifications WHERE state = ANY(%s) ORDER BY id LIMIT %s"
DELETE = "DELETE FROM notifications WHERE id = ANY(%s::uuid[])"


def missing(harness: Harness) -> int:
    """Return how many accepted ids the audit finds missing."""
    url = f"http://127.0.0.1:{harness.stack.plan.health_port('recovery')}/metrics"
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    [line] = [line for line in lines if line.startswith("courant_audit_missing ")]
    return int(float(line.split()[1]))


def logged(harness: Harness) -> dict[str, Any]:
    """Return the last line in which the audit names what is missing."""
    lines = harness.stack.plan.log("recovery-1").read_text().splitlines()
    found: dict[str, Any] = json.loads([line for line in lines if LINE in line][-1])
    return found


def test_ten_deleted_rows_are_found_in_a_minute_and_nothing_is_sent_twice(
    harness: Harness,
) -> None:
    harness.throttle(2)
    with harness.load(20, ACCEPTED / 20) as result:
        pass
    assert len(result.ids) == ACCEPTED
    half = DELETED // 2
    sent = wait(lambda: some(harness, half, "sending", "delivered"), "some are sent")
    waiting = wait(lambda: some(harness, half, "created"), "some wait")
    harness.stack.sql(DELETE, [*sent, *waiting])
    began = time.monotonic()
    wait(lambda: missing(harness) == DELETED, "the audit finds all of them", PROMISED_SECONDS)
    found_seconds = time.monotonic() - began
    line = logged(harness)
    assert line["missing"] == DELETED
    assert {*line["ids"]} <= {*sent, *waiting}

    print(harness.stack.courant("restore", "--since", line["restore_since"], "--yes"))  # noqa: T201
    print(f"found after {found_seconds:.1f} s")  # noqa: T201  # pytest shows both when it fails
    wait(lambda: missing(harness) == 0, "nothing is missing")
    harness.throttle(100)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert harness.stack.sql("SELECT stands FROM holds WHERE scope = 'rebuild'") == [(False,)]
    assert harness.stack.sql("SELECT count(*) FROM notifications WHERE id = ANY(%s::uuid[])",
                             [*sent, *waiting]) == [(DELETED,)]  # fmt: skip
    doubled = """
        SELECT id, move, attempt FROM events WHERE id <> ALL(%s::uuid[])
        GROUP BY id, move, attempt HAVING count(*) > 1"""
    assert harness.stack.sql(doubled, [*sent, *waiting]) == []


def some(harness: Harness, number: int, *states: str) -> list[str]:
    """Return the ids of so many rows in these states, or none if there are fewer."""
    found = [id for (id,) in harness.stack.sql(SOME, [*states], number)]
    return found if len(found) == number else []
