"""Measures how fast the whole product drains a backlog that a hold kept, and its CPU use."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from bench.accept import email
from bench.ground import Ground, cpu_seconds, ground
from bench.ledger import Bookings
from bench.load import load
from bench.parts import Part, interleaved, middle
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
TOLD = "SELECT count(*) FROM notifications WHERE state NOT IN ('created', 'claimed')"


@contextmanager
def whole() -> Iterator[tuple[Ground, Mapping[str, psutil.Process]]]:
    """Run every process; yield each by its kind."""
    with ground() as site, site.running("sandbox", *KINDS) as services:
        yield site, {**site.processes, **services}


def measure() -> list[Part]:
    """Drain a backlog five times."""
    with whole() as (site, processes):
        drain = Drain(site, processes)
        rates = interleaved({"through": drain.rate})["through"]
        memory = {kind: round(p.memory_info().rss / 2**20) for kind, p in processes.items()}
    spent = {kind: middle(values, 3) for kind, values in drain.spent_ms.items()}
    five = middle(
        [sum(round_) for round_ in zip(*(drain.spent_ms[k] for k in KINDS), strict=True)], 3
    )
    more = {"cpu_ms": spent, "rss_mib": memory}
    return [
        Part("through", "emails/s", "≥ 2,000", middle(rates), more=more),
        Part("CPU of the five services", "ms an email", "≤ 0.8", five),
    ]


class Drain:
    """A stack, and the CPU time that each process used for a message in each round."""

    def __init__(self, site: Ground, processes: Mapping[str, psutil.Process]) -> None:
        self._site, self._processes = site, processes
        self.spent_ms: dict[str, list[float]] = {kind: [] for kind in processes}

    def rate(self) -> float:
        """Accept and store under a hold, lift it, and return the bookings per second."""
        self._site.empty()
        bookings = Bookings(self._site.plan.ledger)
        before = {kind: cpu_seconds(each) for kind, each in self._processes.items()}
        self._site.sql(HOLD)
        load(self._site.plan.port("ingest"), email(self._site, "ApiKey"), EMAILS)
        self._wait(SAVED)
        self._site.sql(LIFT)
        bookings.wait(EMAILS, SECONDS_MAX)
        self._wait(TOLD)  # the saver's share counts, too
        for kind, each in self._processes.items():
            self.spent_ms[kind].append(1000 * (cpu_seconds(each) - before[kind]) / EMAILS)
        return bookings.rate()

    def _wait(self, sql: str) -> None:
        until = time.monotonic() + SECONDS_MAX
        while (count := self._site.sql(sql)[0][0]) < EMAILS:
            assert time.monotonic() < until, f"{count} of {EMAILS}: {sql}"
            time.sleep(LOOK_SECONDS)
