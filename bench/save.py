"""Saving: the saver from poll to commit, beside the same rows and events by bare COPY."""

import gc
import time
from datetime import timedelta

from bench.ceilings import bare_copy
from bench.inbox import accepted
from bench.measurements import Measurement, beside, interleaved, middle
from bench.stack import BenchStack, bench_stack
from courant import ids
from courant.contracts import Notification
from courant.records import Outgoing
from saver.store import PostgresStore

ROWS = 50_000
SECONDS_MAX = 120.0
LOOK_SECONDS = 0.2
AIM = "≥ 0.5, ≥ 15,000"
# All events of a batch have the time at which its transaction began.
BATCHES = "SELECT at, count(*) FROM events GROUP BY at ORDER BY at"


def measure() -> list[Measurement]:
    """Measure the saver and the ceiling on the same records."""
    with bench_stack() as stack:
        records = accepted(stack, stack.personal, ROWS)
        rows = [Notification.decode(each.value) for each in records]
        make_days(stack, rows)
        saver, copies = Saver(stack, records), bare_copy.batches(rows)
        gc.freeze()  # as the saver does

        def bare() -> float:
            stack.empty()
            return ROWS / bare_copy.save(stack.plan.database_url, copies)

        found = interleaved({"saver": saver.rate, "bare COPY": bare})
        sizes = middle(saver.batch_rows)
    return [beside("save", "rows/s", AIM, found["saver"], found["bare COPY"], batch_rows=sizes)]


class Saver:
    """The saver's process, and the records that wait in its inbox."""

    def __init__(self, stack: BenchStack, records: list[Outgoing]) -> None:
        self._stack, self._records = stack, records
        self._written = 0
        self.batch_rows: list[float] = []

    def rate(self) -> float:
        """Measure one round; return rows per second, from its first transaction to its last."""
        self._stack.empty()
        producer = self._stack.installation.producer
        for each in self._records:
            producer.produce(each)
        producer.flush()
        self._written += len(self._records)
        with self._stack.running("saver"):
            self._wait()
        times, rows = zip(*self._stack.sql(BATCHES), strict=True)
        assert sum(rows) == len(self._records), f"{sum(rows)} were saved"
        self.batch_rows.append(sum(rows) / len(rows))
        seconds = (times[-1] - times[0]).total_seconds()
        return float(sum(rows[:-1]) / seconds)

    def _wait(self) -> None:
        """Return once Postgres has stored the inbox to its end."""
        until = time.monotonic() + SECONDS_MAX
        while self._stack.sql("SELECT sum(next) FROM positions") != [(self._written,)]:
            assert time.monotonic() < until, "the saver is not done"
            time.sleep(LOOK_SECONDS)


def make_days(stack: BenchStack, rows: list[Notification]) -> None:
    """Create the partitions of the rows' days, as the saver does."""
    store = PostgresStore(stack.installation.engine, timedelta(seconds=1))
    store.make_days({ids.day_of(each.id) for each in rows})
