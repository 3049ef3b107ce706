"""Faults forced into the moments between two steps, where a mistake would lose or repeat a send."""

import time
from typing import Any

import psycopg2
import pytest

from fault.harness import Harness
from support.waiting import BUSY_SECONDS, wait

DEADLINE_SECONDS = 1.8  # Ingest answers 503 after this time.
TWO = pytest.mark.parametrize(
    "harness", [(), ("--scale", "deliverer=2")], indirect=True, ids=["one", "two"]
)


def locked(harness: Harness) -> Any:
    """Lock the table `notifications` until the returned connection is closed."""
    connection = psycopg2.connect(harness.stack.plan.database_url)
    connection.cursor().execute("LOCK TABLE notifications IN EXCLUSIVE MODE")
    return connection


def waiting(harness: Harness) -> set[str]:
    """Return the application names of the connections that wait for a lock."""
    # pg_stat_activity shows what other roles' connections wait for to superusers only.
    sql = """SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted"""
    return {name for (name,) in harness.stack.sql(sql)}


def test_a_deliverer_killed_after_the_booking_and_before_the_answer_loses_nothing(
    harness: Harness,
) -> None:
    harness.configure_sandbox(hold="after-booking")
    with harness.load(50, 6) as result:
        wait(lambda: harness.calls()["booked"], "a call is held after its booking")
        time.sleep(1)
        harness.kill("deliverer")
        harness.configure_sandbox(hold=None)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)


def test_a_deliverer_killed_in_a_call_before_its_booking_loses_nothing(harness: Harness) -> None:
    harness.configure_sandbox(hold="before-booking")
    with harness.load(50, 6) as result:
        wait(lambda: harness.calls()["calls"], "a call is held before its booking")
        harness.kill("deliverer")
        harness.configure_sandbox(hold=None)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)


def test_a_deliverer_killed_between_claim_and_call_sends_nothing_twice(harness: Harness) -> None:
    def uncalled() -> set[str]:
        claimed = harness.stack.sql("SELECT id FROM notifications WHERE state = 'claimed'")
        return {str(id) for (id,) in claimed} - set(harness.stack.sendings())

    with harness.load(50, 12) as result:
        time.sleep(2)
        lock = locked(harness)
        wait(lambda: "courant-deliverer" in waiting(harness), "a claim waits for the lock")
        # A frozen broker acknowledges no `started` record, and no call begins without one.
        with harness.frozen("kafka"):
            wait(lambda: not harness.calls()["calls"], "the calls before it have ended")
            lock.close()
            wait(uncalled, "rows are claimed but in no call")
            harness.in_open_calls.clear()
            harness.kill("deliverer")
        assert harness.in_open_calls == set()
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()


def test_a_saver_killed_while_its_copy_waits_for_a_lock_loses_nothing(harness: Harness) -> None:
    with harness.load(50, 8) as result:
        time.sleep(1)
        lock = locked(harness)
        wait(lambda: "courant-saver" in waiting(harness), "a COPY waits for the lock")
        harness.kill("saver")
        time.sleep(1)
        lock.close()
    assert harness.check(result).wrong() == {}


def test_a_broker_frozen_for_five_seconds_loses_nothing_and_delays_no_answer(
    harness: Harness,
) -> None:
    with harness.load(150, 15) as result:
        time.sleep(2)
        with harness.frozen("kafka"):
            time.sleep(5)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
    assert result.statuses[503] > 0
    assert max(result.latencies) < DEADLINE_SECONDS + BUSY_SECONDS


@TWO
def test_a_deliverer_frozen_past_its_lease_loses_nothing(harness: Harness) -> None:
    with harness.load(50, 18) as result:
        time.sleep(2)
        with harness.frozen("deliverer-1"):
            time.sleep(12)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
