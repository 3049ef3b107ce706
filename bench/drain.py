"""Measures how fast the whole product drains a backlog that a hold kept, and its CPU use."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from bench.accept import email
from bench.ledger import Bookings
from bench.load import load
from bench.measurements import Measurement, interleaved, middle
from bench.stack import BenchStack, bench_stack, cpu_seconds
from courant.postgres.holds import Scope
from courant_local.processes import SERVICES

EMAILS = 50_000
SECONDS_MAX = 180.0
LOOK_SECONDS = 0.5
KINDS = tuple(each.kind for each in SERVICES)
HOLD = f"""
    INSERT INTO holds (scope, reason) VALUES ('{Scope.ALL}', 'bench')
    ON CONFLICT (scope) DO UPDATE SET stands = true"""
LIFT = f"UPDATE holds SET stands = false WHERE scope = '{Scope.ALL}'"
SAVED = "SELECT count(*) FROM notifications"
SETTLED = "SELECT count(*) FROM notifications WHERE state NOT IN ('created', 'claimed')"


@contextmanager
def whole() -> Iterator[tuple[BenchStack, Mapping[str, psutil.Process]]]:
    """Run every process; yield each by its kind."""
    with bench_stack() as stack, stack.running("sandbox", *KINDS) as services:
        yield stack, {**stack.processes, **services}


def measure() -> list[Measurement]:
    """Drain a backlog five times."""
    with whole() as (stack, processes):
        drain = Drain(stack, processes)
        rates = interleaved({"drain": drain.rate})["drain"]
        memory = {kind: round(p.memory_info().rss / 2**20) for kind, p in processes.items()}
    spent = {kind: middle(values, 3) for kind, values in drain.spent_ms.items()}
    five = middle(
        [sum(round_) for round_ in zip(*(drain.spent_ms[k] for k in KINDS), strict=True)], 3
    )
    more = {"cpu_ms": spent, "rss_mib": memory}
    return [
        Measurement("drain", "emails/s", "≥ 2,000", middle(rates), more=more),
        Measurement("CPU of the five services", "ms an email", "≤ 0.8", five),
    ]


class Drain:
    """A stack, and the CPU time that each process used for a message in each round."""

    def __init__(self, stack: BenchStack, processes: Mapping[str, psutil.Process]) -> None:
        self._stack, self._processes = stack, processes
        self.spent_ms: dict[str, list[float]] = {kind: [] for kind in processes}

    def rate(self) -> float:
        """Accept and store under a hold, lift it, and return the bookings per second."""
        self._stack.empty()
        bookings = Bookings(self._stack.plan.ledger)
        before = {kind: cpu_seconds(each) for kind, each in self._processes.items()}
        self._stack.sql(HOLD)
        load(self._stack.plan.port("ingest"), email(self._stack, "ApiKey"), EMAILS)
        self._wait(SAVED)
        self._stack.sql(LIFT)
        bookings.wait(EMAILS, SECONDS_MAX)
        self._wait(SETTLED)  # the saver's share counts, too
        for kind, each in self._processes.items():
            self.spent_ms[kind].append(1000 * (cpu_seconds(each) - before[kind]) / EMAILS)
        return bookings.rate()

    def _wait(self, sql: str) -> None:
        until = time.monotonic() + SECONDS_MAX
        while (count := self._stack.sql(sql)[0][0]) < EMAILS:
            assert time.monotonic() < until, f"{count} of {EMAILS}: {sql}"
            time.sleep(LOOK_SECONDS)
