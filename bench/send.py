"""Sending: the deliverer, with a template without placeholders, beside a bare loop of boto3."""

import gc
from collections.abc import Sequence

from bench.ceilings import bare_boto3, bare_copy
from bench.inbox import accepted
from bench.ledger import Bookings
from bench.measurements import Measurement, beside, interleaved
from bench.save import make_days
from bench.stack import BenchStack, bench_stack
from courant.contracts import Notification
from deliverer.calls import ClaimedRow
from deliverer.settings import DelivererSettings
from saver.rules import order

EMAILS = 30_000
SECONDS_MAX = 120.0
THREADS = DelivererSettings.model_fields["deliverer_threads"].default
AIM = "≥ 0.6"


def measure() -> list[Measurement]:
    """Measure the deliverer and the ceiling on the same emails, against the same sandbox."""
    with bench_stack() as stack, stack.running("sandbox"):
        records = accepted(stack, stack.plain, EMAILS)
        rows = [Notification.decode(each.value) for each in records]
        make_days(stack, rows)
        copies = bare_copy.batches(rows)
        calls = bare_boto3.calls(list(map(claimed, rows)), stack.directory, stack.installation.ring)
        gc.freeze()  # as the deliverer does

        def deliverer() -> float:
            stack.empty()
            bare_copy.save(stack.plan.database_url, copies)
            put_orders(stack, rows)
            bookings = Bookings(stack.plan.ledger)
            with stack.running("deliverer"):
                bookings.wait(EMAILS, SECONDS_MAX)
            return bookings.rate()

        def bare() -> float:
            bookings = Bookings(stack.plan.ledger)
            bare_boto3.send(calls, THREADS)
            bookings.wait(EMAILS, SECONDS_MAX)
            return bookings.rate()

        found = interleaved({"deliverer": deliverer, "bare boto3": bare})
    return [
        beside("send", "emails/s", AIM, found["deliverer"], found["bare boto3"], threads=THREADS)
    ]


def put_orders(stack: BenchStack, rows: Sequence[Notification]) -> None:
    """Order the rows, as the saver does."""
    producer = stack.installation.producer
    for each in rows:
        producer.produce(order(each))
    producer.flush()


def claimed(row: Notification) -> ClaimedRow:
    """Return a row in the shape that the deliverer's claim returns."""
    return ClaimedRow(
        row.id,
        1,
        0,
        row.service_id,
        row.key_type,
        row.template_id,
        row.template_version,
        row.sender_id,
        row.sealed,
        row.accepted_at,
    )
