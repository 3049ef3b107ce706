"""A backlog behind a slow provider is ordered once, and the priority lane does not wait for it."""

import time
from contextlib import suppress
from uuid import UUID

from confluent_kafka import OFFSET_END, TopicPartition
from notifications_python_client.errors import HTTPError

from courant.kafka import clients, offsets
from courant.topics import PERSISTED, Channel, Lane
from courant_cli import entries
from courant_cli.load import Result, quantile
from fault.harness import Harness, merged
from support.waiting import BUSY_SECONDS, wait

WAITING = 100_000
TAKEN_A_SECOND = 100
URGENT_A_SECOND, URGENT_SECONDS = 20, 60
THROTTLED_SECONDS = 120
POLL_SECONDS = 1.5
"""A little longer than a consumer's longest fetch wait at the broker."""
OVERDUE_SECONDS, HEALED_SECONDS = 60, 60


def test_a_backlog_of_100_000_is_ordered_once_and_delays_no_priority_email(
    harness: Harness,
) -> None:
    # Writing 100,000 receipts would measure the sandbox, not Courant.
    harness.configure_sandbox(events={"drop_share": 1.0})
    with harness.load(URGENT_A_SECOND, URGENT_SECONDS / 2, urgent(harness, "alone")) as idle:
        pass
    lost = lose_an_order(harness)
    planted = time.monotonic()
    harness.throttle(TAKEN_A_SECOND)
    began = time.monotonic()
    with harness.load(WAITING / 5, 5) as backlog:
        wait(lambda: len(backlog.ids) > TAKEN_A_SECOND * URGENT_SECONDS, "a backlog")
        with harness.load(URGENT_A_SECOND, URGENT_SECONDS, urgent(harness, "beside")) as beside:
            pass
        wait(lambda: lost.ids[0] in harness.bookings(), "the lost order is re-issued")
        healed = time.monotonic() - planted
    time.sleep(max(0, THROTTLED_SECONDS - (time.monotonic() - began)))
    waits = harness.stack.sql("SELECT count(*) FROM notifications WHERE state = 'created'")[0][0]
    harness.configure_sandbox(quota_per_second=None)

    findings = harness.check(merged(idle, lost, backlog, beside))
    p99_alone, p99_beside = (quantile(harness.waits(each), 0.99) for each in (idle, beside))
    figures = f"p99 alone {p99_alone:.3f} s, beside {p99_beside:.3f} s; healed after {healed:.1f} s"
    print(figures)  # noqa: T201  # pytest shows it with a failed test
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert waits > WAITING / 2
    assert healed < OVERDUE_SECONDS + HEALED_SECONDS + BUSY_SECONDS
    # Each notification has one order, a deferred one has another when it is due, and the lost
    # order was given a second time.
    asked = "SELECT count(*) FROM events WHERE move IN ('saved', 'deferred')"
    assert orders(harness) == harness.stack.sql(asked)[0][0] + 1
    assert p99_beside <= max(0.25, 1.1 * p99_alone)


def urgent(harness: Harness, word: str) -> str:
    """Create a template of the priority lane whose text contains `word`, and return its id."""
    service = UUID(harness.stack.variables["COURANT_SERVICE_ID"])
    text = f"Your code is ((name)): {word}."
    template = entries.new_template(service, Channel.EMAIL, word, "Your code", text, Lane.PRIORITY)
    entries.put_entry(harness.stack.installation, template)
    client = harness.stack.client()

    def is_known() -> bool:
        with suppress(HTTPError):
            return bool(client.get_template(str(template.id)))
        return False

    wait(is_known, "ingest knows the template")
    return str(template.id)


def lose_an_order(harness: Harness) -> Result:
    """Send one priority email, and delete its order's record before a deliverer reads it."""
    topic, before = PERSISTED.topic(Channel.EMAIL, Lane.PRIORITY), orders(harness)
    template_id = urgent(harness, "lost")
    with harness.frozen("deliverer"):
        time.sleep(POLL_SECONDS)
        with harness.load(1, 1, template_id) as result:
            pass
        wait(lambda: orders(harness) == before + 1, "the order is written")
        with clients.admin(harness.stack.installation.cluster, "test") as admin:
            parts = offsets.partitions(admin, [topic])
            ends = [
                TopicPartition(*spot, OFFSET_END)
                for spot in offsets.by_topic_and_number(admin.cluster, parts)
            ]
            for done in admin.client.delete_records(ends).values():
                done.result(timeout=120)
    return result


def orders(harness: Harness) -> int:
    """Count the orders that were ever written."""
    with clients.admin(harness.stack.installation.cluster, "test") as admin:
        return sum(offsets.ends(admin, offsets.partitions(admin, PERSISTED.names())).values())
