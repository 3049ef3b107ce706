"""kill -9 under load: nothing is lost, and each second send is explained by a `resent` event."""

import time

import pytest

from fault.harness import Harness

SETTLED_SECONDS = 3.0
RATE = 150
PARTS = ("ingest", "saver", "deliverer", "recovery", "postgres", "kafka")


@pytest.mark.quick
def test_kill_9_of_each_process_in_turn_and_then_of_all_loses_nothing(harness: Harness) -> None:
    with harness.load(RATE, 50) as result:
        for kind in PARTS:
            time.sleep(SETTLED_SECONDS)
            harness.kill(kind)
            harness.ready()
        time.sleep(SETTLED_SECONDS)
        harness.kill(*PARTS, "job-runner", "sandbox")
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
    assert result.statuses.keys() <= {201, 503}  # A restart never makes ingest reject a good key.
    assert len(result.ids) + result.statuses[503] > RATE * 30  # There was load during the kills.
