"""kill -9 under load: nothing is lost, and nothing is sent twice but what says why."""

import time

import pytest

from fault_site import Site

SETTLED_SECONDS = 3.0


@pytest.mark.quick
def test_each_process_is_killed_in_turn_and_then_everything(site: Site) -> None:
    with site.load(rate=100, count=5_000) as result:
        for kind in ("ingest", "saver", "deliverer", "recovery", "postgres", "kafka"):
            time.sleep(SETTLED_SECONDS)
            site.kill(kind)
            site.ready()
        time.sleep(SETTLED_SECONDS)
        site.kill(
            "ingest", "saver", "deliverer", "recovery", "job-runner", "postgres", "kafka", "sandbox"
        )
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
    assert result.statuses.keys() <= {201, 503}  # a client is never told that its key is bad
    assert len(result.ids) > result_min(result.statuses[503])


def result_min(refused: int) -> int:
    """Most of the load was accepted: the test was about something."""
    return 3_000 - refused
