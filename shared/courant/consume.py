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
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeAlias, TypeVar

from courant import metrics
from courant.backoff import Progress
from courant.errors import Behind, Fenced, TooSlow, Unavailable
from courant.records import Batch, Dead, Effect, Outgoing, Record, Verdict, sift
from courant.topics import Partition, Positions

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
    compare: Callable[[Positions], None] = lambda _: None  # raises Behind
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
    while not stopping():
        progress.turn()
        try:
            step(consumer, producer, stage, comparing(), progress)
        except Unavailable as unavailable:
            consumer.rest(progress.failed(unavailable))


def step(
    consumer: Consumer,
    producer: Producer,
    stage: Stage[T],
    comparing: bool,
    progress: Progress | None = None,
) -> None:
    """Take one batch from poll to commit.

    Raises Unavailable, after it moved the consumer back to the start of the batch.
    """
    progress = progress or Progress(stage.group, stage.limit)
    records: Sequence[Record] = ()
    batch: Batch[T] = Batch([], [], {})
    try:
        if comparing:
            # An idle partition has no batch whose handling would notice that Postgres went back.
            stage.compare(consumer.positions())
        records = consumer.poll(progress.limit)
        if not records:
            # The client keeps the broker's reports in memory until it is polled, so an idle stage
            # has to poll it. This flush does.
            producer.flush()
            progress.idle()
            return
        batch = sift(records, stage.decide)
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
    except Unavailable as unavailable:
        if isinstance(unavailable, TooSlow) and records:
            progress.too_slow(len(records))
        consumer.seek({partition: offsets.start for partition, offsets in batch.span.items()})
        raise
    except Fenced:
        # The effects stay: the new owner reads the batch again, and repeating it changes nothing.
        log.info("partitions reassigned before the commit", extra={"group": stage.group})


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
            log.error("records left the log before they were folded", extra=lost)
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
