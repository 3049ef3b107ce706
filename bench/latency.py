"""Measures the time from acceptance to the provider's booking, at a steady rate, by one clock."""

import asyncio

from bench.drain import whole
from bench.ledger import Bookings
from bench.measurements import Measurement, interleaved, middle
from bench.stack import BenchStack
from courant.directory.entries import Template
from courant.topics import Channel
from courant_cli.load import Load, quantile, run, to

RATE, EMAILS = 100.0, 1_500
SECONDS_MAX = 60.0
ACCEPTED = "SELECT id, accepted_at FROM notifications WHERE job_id IS NULL"


def measure() -> list[Measurement]:
    """Send at the rate, five times."""
    with whole() as (stack, _):
        p99s_ms: list[float] = []

        def p50_ms() -> float:
            stack.empty()
            waits = steady(stack, stack.personal)
            p99s_ms.append(1000 * quantile(waits, 0.99))
            return 1000 * quantile(waits, 0.5)

        p50s_ms = interleaved({"p50": p50_ms})["p50"]
    return [
        Measurement("latency p50", "ms", "≤ 100", middle(p50s_ms, 1)),
        Measurement("latency p99", "ms", "≤ 300", middle(p99s_ms, 1)),
    ]


def steady(stack: BenchStack, template: Template) -> list[float]:
    """Send one round; return the seconds of each email."""
    bookings = Bookings(stack.plan.ledger)
    wanted = Load(
        url=stack.plan.url,
        key=stack.key,
        template_id=str(template.id),
        channel=Channel.EMAIL,
        count=EMAILS,
        rate=RATE,
        connections=16,
        recipient=to(Channel.EMAIL),
    )
    result = asyncio.run(run(wanted))
    assert len(result.ids) == EMAILS, result.summary()
    booked = bookings.of(set(result.ids), SECONDS_MAX)
    assert len(booked) == EMAILS, f"{len(booked)} were booked"
    accepted = {str(id): at for id, at in stack.sql(ACCEPTED)}
    return [(each.at - accepted[each.notification_id or ""]).total_seconds() for each in booked]
