"""The loop of every consumer: poll, sift, dead letters, handle, commit.

A handler yields the records that follow from what it did. **When the `yield` returns, they are in
every in-sync replica**, so a handler can also record what it is about to do before it does it.

In this loop only this module produces and commits, so the order that loses nothing is written once:
the effect, then the records, then the offsets. After a crash between any two steps the batch is
read again, and every handler is safe to repeat.

Code outside of this loop has its own producer and commits no stage's offsets: ingest, the timers of
recovery and job-runner, Faust's figures, `directory.publish` and the `courant` command.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeAlias, TypeVar

from courant import metrics
from courant.backoff import Progress
from courant.errors import Behind, Fenced, Shortened, TooSlow, Unavailable
from courant.records import (
    Batch,
    Dead,
    Effect,
    Outgoing,
    Record,
    Unbroken,
    Verdict,
    sift,
    starts_of,
)
from courant.runbooks import Runbook
from courant.topics import Folded, Partition, Positions

T = TypeVar("T")
Steps: TypeAlias = Generator[Sequence[Effect], None, None]
log = logging.getLogger(__name__)


class Consumer(Protocol):
    """A member of a consumer group. Any exception that is not named here ends the process."""

    def poll(self, limit: int) -> Sequence[Record]:
        """Return up to `limit` records from the current positions; raises Unavailable."""

    def positions(self) -> Positions:
        """Return the current position in each partition that this member holds."""

    def seek(self, positions: Positions) -> None:
        """Move to these positions. Partitions that are no longer held are ignored."""

    def starts(self, partitions: Iterable[Partition]) -> Positions:
        """Return the first offset that the log of each partition still has."""

    def firsts_after(self, folded: Mapping[Partition, Folded]) -> Positions:
        """Return for each partition the first offset whose record is newer than `at`.

        Where none is newer, or `at` is None, it is the end of the log. Raises Unavailable.
        """

    def rest(self, delay: timedelta) -> None:
        """Wait without leaving the group: keep polling while all partitions are paused.

        Partitions that are assigned during the wait are paused too.
        """

    def commit(self, records: Sequence[Record]) -> None:
        """Commit the offsets of these records as done; raises Fenced, Unavailable."""

    def commit_at(self, positions: Positions) -> None:
        """Commit these offsets: everything before them is done, everything from them on is not.

        Raises Fenced, Unavailable.
        """


class Producer(Protocol):
    """A writer of records to Kafka."""

    def produce(self, outgoing: Outgoing) -> None:
        """Queue a record."""

    def flush(self) -> None:
        """Return when every in-sync replica has all queued records.

        Raises Unavailable. Records without an acknowledgement stay queued, and the caller may call
        `flush` again.
        """


@dataclass(frozen=True, slots=True)
class Stage(Generic[T]):
    """One consumer group's work on its topics. Each stage has its own consumer and thread."""

    group: str
    topics: tuple[str, ...]
    decide: Callable[[Record], Verdict[T]]
    handle: Callable[[Batch[T]], Steps]
    # Returns Postgres's positions; raises Behind.
    compare: Callable[[Positions], Mapping[Partition, Folded]] = lambda _: {}
    cut: Callable[[Shortened], None] = lambda _: None  # sets Postgres's positions back
    skip: Callable[[Positions], None] = lambda _: None  # gets the starts of logs that lost records
    limit: int = 500  # records in a batch


COMPARE_EVERY = timedelta(seconds=1)


def every(span: timedelta) -> Callable[[], bool]:
    """Return a function that returns True once per `span`, and False otherwise."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < span.total_seconds():
            return False
        last = now
        return True

    return due


def run(
    consumer: Consumer,
    producer: Producer,
    stage: Stage[T],
    stopping: Callable[[], bool],
    comparing: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> None:
    """Take batch after batch until `stopping` returns True.

    While a dependency is unavailable it backs off and retries the batch, without leaving the group.
    """
    comparing = comparing or every(COMPARE_EVERY)
    progress = progress or Progress(stage.group, stage.limit)
    unbroken = Unbroken()
    while not stopping():
        progress.turn()
        try:
            step(consumer, producer, stage, comparing(), progress, unbroken)
        except Unavailable as unavailable:
            consumer.rest(progress.failed(unavailable))


def step(
    consumer: Consumer,
    producer: Producer,
    stage: Stage[T],
    comparing: bool,
    progress: Progress | None = None,
    unbroken: Unbroken | None = None,
) -> None:
    """Take one batch from poll to commit.

    Raises Unavailable, after it moved the consumer back to the start of the batch.
    """
    progress = progress or Progress(stage.group, stage.limit)
    records: Sequence[Record] = ()
    unbroken = unbroken or Unbroken()
    batch: Batch[T] = Batch([], [], {})
    try:
        if comparing:
            # An idle partition has no batch whose handling would notice that Postgres went back, or
            # that the log lost its end.
            compare(consumer, stage, consumer.positions())
        records = consumer.poll(progress.limit)
        if not records:
            # The client keeps the broker's reports in memory until it is polled, so an idle stage
            # has to poll it. This flush does.
            producer.flush()
            progress.idle()
            return
        batch = sift(records, stage.decide)
        if broken := unbroken.broken(batch.span):
            compare(consumer, stage, broken)
        unbroken.remember(batch.span)
        write(consumer, producer, batch.dead, progress)
        with closing(stage.handle(batch)) as steps:
            for effects in steps:
                write(consumer, producer, effects, progress)
        consumer.commit(records)
        progress.handled()
        metrics.count(metrics.RECORDS, (record.partition.topic for record in records))
    except Behind as behind:
        log.warning("Postgres is behind, reading again", extra={"group": stage.group})
        go_back(consumer, stage, behind.positions)
    except Shortened as shortened:
        consumer.seek(starts_of(batch.span))
        cut(consumer, stage, shortened)
    except Unavailable as unavailable:
        if isinstance(unavailable, TooSlow) and records:
            progress.too_slow(len(records))
        consumer.seek(starts_of(batch.span))
        raise
    except Fenced:
        # The effects stay: the new owner reads the batch again, and repeating it changes nothing.
        log.info("partitions reassigned before the commit", extra={"group": stage.group})


def compare(consumer: Consumer, stage: Stage[T], positions: Positions) -> None:
    """Compare Postgres's positions with these, and with the log; raises Behind, Shortened.

    Postgres is read first. So an offset that the log lacks was not merely folded meanwhile.
    """
    folded = stage.compare(positions)
    if folded:
        firsts = consumer.firsts_after(folded)
        short = {each: first for each, first in firsts.items() if first < folded[each].next}
        if short:
            raise Shortened(folded, short)


def cut(consumer: Consumer, stage: Stage[T], shortened: Shortened) -> None:
    """Set Postgres's positions and this group's back to where the log's new records begin."""
    # A fold saw only its own batch: new records may have come before it.
    firsts = consumer.firsts_after(shortened.folded)
    firsts = {each: min(first, firsts[each]) for each, first in shortened.firsts.items()}
    stage.cut(Shortened(shortened.folded, firsts))
    for partition, first in firsts.items():
        records = shortened.folded[partition].next - first
        metrics.SHORTENED.labels(partition.topic).inc(records)
        lost = {"topic": partition.topic, "partition": partition.number, "records": records}
        log.error(
            "the log lost records that were folded",
            extra={**lost, "offset": first, "runbook": Runbook.LOG_SHORTENED},
        )
    consumer.seek(firsts)
    with suppress(Fenced):
        consumer.commit_at(firsts)


def go_back(consumer: Consumer, stage: Stage[T], positions: Positions) -> None:
    """Seek to Postgres's positions, or to the start of a log that begins after them.

    Records between the two are gone: they are counted and logged, and `stage.skip` is called.
    """
    starts = consumer.starts(positions)
    gone = {partition: start for partition, start in starts.items() if start > positions[partition]}
    if gone:
        for partition, start in gone.items():
            records = start - positions[partition]
            metrics.GONE.labels(partition.topic).inc(records)
            lost = {"topic": partition.topic, "partition": partition.number, "records": records}
            log.error(
                "records left the log before they were folded",
                extra={**lost, "runbook": Runbook.LOG_GONE},
            )
        stage.skip(gone)
    positions = {
        partition: max(position, starts[partition]) for partition, position in positions.items()
    }
    consumer.seek(positions)
    with suppress(Fenced):
        # Otherwise each start of the service would find Postgres behind again and renew the hold.
        consumer.commit_at(positions)


def write(
    consumer: Consumer, producer: Producer, effects: Sequence[Effect], progress: Progress
) -> None:
    """Produce the records, and return when every in-sync replica has them.

    Retries without end, because a provider's answer must not be lost from memory when the broker is
    slow. A consumer that was fenced meanwhile still has to write that answer. While it waits, the
    log and the health port say for which topics.
    """
    for effect in effects:
        producer.produce(effect.letter() if isinstance(effect, Dead) else effect)
    waiting = bool(effects)
    while waiting:
        try:
            producer.flush()
            waiting = False
        except Unavailable as unavailable:
            consumer.rest(progress.unacknowledged(unavailable))
    progress.acknowledged()
    dead = (effect.record.partition.topic for effect in effects if isinstance(effect, Dead))
    metrics.count(metrics.DEAD_LETTERS, dead)
