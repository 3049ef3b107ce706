"""Faults forced into the moments between two steps, where a mistake would lose or repeat a send."""

import time
from typing import Any

import psycopg2
import pytest

from fault.site import Site
from support.waiting import BUSY_SECONDS, wait

DEADLINE_SECONDS = 1.8  # Ingest answers 503 after this time.
TWO = pytest.mark.parametrize(
    "site", [(), ("--scale", "deliverer=2")], indirect=True, ids=["one", "two"]
)


def locked(site: Site) -> Any:
    """Lock the table `notifications` until the returned connection is closed."""
    connection = psycopg2.connect(site.stack.plan.database_url)
    connection.cursor().execute("LOCK TABLE notifications IN EXCLUSIVE MODE")
    return connection


def waiting(site: Site) -> set[str]:
    """Return the application names of the connections that wait for a lock."""
    # pg_stat_activity shows what other roles' connections wait for to superusers only.
    sql = """SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted"""
    return {name for (name,) in site.stack.sql(sql)}


def test_a_deliverer_killed_after_the_booking_and_before_the_answer_loses_nothing(
    site: Site,
) -> None:
    site.order(hold="after-booking")
    with site.load(50, 6) as result:
        wait(lambda: site.calls()["booked"], "a call is held after its booking")
        time.sleep(1)
        site.kill("deliverer")
        site.order(hold=None)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)


def test_a_deliverer_killed_in_a_call_before_its_booking_loses_nothing(site: Site) -> None:
    site.order(hold="before-booking")
    with site.load(50, 6) as result:
        wait(lambda: site.calls()["calls"], "a call is held before its booking")
        site.kill("deliverer")
        site.order(hold=None)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)


def test_a_deliverer_killed_between_claim_and_call_sends_nothing_twice(site: Site) -> None:
    def uncalled() -> set[str]:
        claimed = site.stack.sql("SELECT id FROM notifications WHERE state = 'claimed'")
        return {str(id) for (id,) in claimed} - set(site.stack.sendings())

    with site.load(50, 12) as result:
        time.sleep(2)
        lock = locked(site)
        wait(lambda: "courant-deliverer" in waiting(site), "a claim waits for the lock")
        # A frozen broker acknowledges no `started` record, and no call begins without one.
        with site.still("kafka"):
            wait(lambda: not site.calls()["calls"], "the calls before it have ended")
            lock.close()
            wait(uncalled, "rows are claimed but in no call")
            site.inside.clear()
            site.kill("deliverer")
        assert site.inside == set()
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()


def test_a_saver_killed_while_its_copy_waits_for_a_lock_loses_nothing(site: Site) -> None:
    with site.load(50, 8) as result:
        time.sleep(1)
        lock = locked(site)
        wait(lambda: "courant-saver" in waiting(site), "a COPY waits for the lock")
        site.kill("saver")
        time.sleep(1)
        lock.close()
    assert site.ask(result).wrong() == {}


def test_a_broker_frozen_for_five_seconds_loses_nothing_and_delays_no_answer(site: Site) -> None:
    with site.load(150, 15) as result:
        time.sleep(2)
        with site.still("kafka"):
            time.sleep(5)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
    assert result.statuses[503] > 0
    assert max(result.latencies) < DEADLINE_SECONDS + BUSY_SECONDS


@TWO
def test_a_deliverer_frozen_past_its_lease_loses_nothing(site: Site) -> None:
    with site.load(50, 18) as result:
        time.sleep(2)
        with site.still("deliverer-1"):
            time.sleep(12)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
