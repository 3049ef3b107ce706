"""The database or the log away for longer than anything lasts, and a rolling restart."""

import signal
import time

from fault.site import Site

PAST_ALL_SECONDS = 60
"""Longer than the local stack's lease of 6 s and grace of 30 s together."""
SERVICES = ("ingest", "saver", "deliverer", "recovery", "job-runner")


def test_postgres_is_away_for_longer_than_lease_and_grace(site: Site) -> None:
    with site.load(50, PAST_ALL_SECONDS + 20) as result:
        time.sleep(3)
        with site.away():
            time.sleep(PAST_ALL_SECONDS)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
    assert set(result.statuses) == {201}  # Postgres is not on the accept path


def test_kafka_stands_still_right_after_calls_returned(site: Site) -> None:
    with site.load(50, 5) as result:
        time.sleep(3)
        with site.still("kafka"):
            time.sleep(PAST_ALL_SECONDS)
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()  # what came of the calls survived in the deliverers


def test_each_service_is_restarted_in_turn_without_anybody_noticing(site: Site) -> None:
    with site.load(100, 40) as result:
        for kind in SERVICES:
            time.sleep(2)
            site.signal(kind, signal.SIGTERM)
            time.sleep(1)
            site.ready()
        time.sleep(2)
    claimed = site.stack.sql("SELECT count(*) FROM notifications WHERE state = 'claimed'")
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()
    assert set(result.statuses) == {201}
    assert result.unanswered == 0
    assert claimed[0][0] <= 100  # those at work, and none that a stop left behind
