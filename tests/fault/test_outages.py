"""Outages of PostgreSQL and Kafka longer than lease and grace together, and a rolling restart."""

import signal
import time

from fault.harness import Harness

PAST_ALL_SECONDS = 60
"""Longer than the local stack's lease of 6 s and grace of 30 s together."""
SERVICES = ("ingest", "saver", "deliverer", "recovery", "job-runner")


def test_a_postgres_outage_past_lease_and_grace_loses_nothing(harness: Harness) -> None:
    with harness.load(50, PAST_ALL_SECONDS + 20) as result:
        time.sleep(3)
        with harness.without_postgres():
            time.sleep(PAST_ALL_SECONDS)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
    assert set(result.statuses) == {201}  # Ingest accepts without Postgres.


def test_a_kafka_frozen_past_lease_and_grace_causes_no_second_send(harness: Harness) -> None:
    with harness.load(50, 5) as result:
        time.sleep(3)
        with harness.frozen("kafka"):
            time.sleep(PAST_ALL_SECONDS)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()  # The deliverers kept the outcomes of their calls.


def test_during_a_rolling_restart_clients_see_only_201_and_nothing_is_sent_twice(
    harness: Harness,
) -> None:
    with harness.load(100, 40) as result:
        for kind in SERVICES:
            time.sleep(2)
            harness.signal(kind, signal.SIGTERM)
            time.sleep(1)
            harness.ready()
        time.sleep(2)
    claimed = harness.stack.sql("SELECT count(*) FROM notifications WHERE state = 'claimed'")
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert set(result.statuses) == {201}
    assert result.unanswered == 0
    # These are in running calls. A service that stops leaves no claimed row behind.
    assert claimed[0][0] <= 100
