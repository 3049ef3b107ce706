"""The dangerous windows, forced from outside."""

import signal
import time

from fault_site import Site
from stack import wait


def test_a_deliverer_killed_after_the_booking_and_before_the_answer(site: Site) -> None:
    site.order(hold="after-booking")
    with site.load(rate=50, count=300) as result:
        wait(lambda: site.calls()["booked"], "a call is held after its booking")
        time.sleep(1)
        site.kill("deliverer")
        site.order(hold=None)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)


def test_a_deliverer_killed_between_claim_and_call_sends_nothing_twice(site: Site) -> None:
    site.order(hold="before-booking")
    with site.load(rate=50, count=300) as result:
        wait(lambda: site.calls()["calls"], "a call is held before its booking")
        site.kill("deliverer")
        site.order(hold=None)
    found = site.ask(result)
    assert found.wrong() == {}


def test_a_saver_killed_while_a_lock_holds_its_copy(site: Site) -> None:
    import psycopg2

    with site.load(rate=50, count=400) as result:
        time.sleep(1)
        locking = psycopg2.connect(site.stack.plan.database_url)
        locking.cursor().execute("LOCK TABLE notifications IN EXCLUSIVE MODE")
        time.sleep(2)
        site.kill("saver")
        time.sleep(1)
        locking.close()
    assert site.ask(result).wrong() == {}


def test_a_broker_that_stands_still_for_five_seconds(site: Site) -> None:
    with site.load(rate=50, count=600) as result:
        time.sleep(2)
        site.signal("kafka", signal.SIGSTOP)
        time.sleep(5)
        site.signal("kafka", signal.SIGCONT)
    found = site.ask(result)
    assert found.wrong() == {}
    assert result.statuses[503] > 0
    assert max(result.latencies) < 3  # its own deadline is 1.8 s; the machine is shared


def test_a_deliverer_that_stands_still_past_its_lease(site: Site) -> None:
    with site.load(rate=50, count=900) as result:
        time.sleep(2)
        site.look_inside()
        site.signal("deliverer", signal.SIGSTOP)
        time.sleep(12)
        site.signal("deliverer", signal.SIGCONT)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
