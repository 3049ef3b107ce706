"""The loop of every consumer: poll, sift, dead letters, handle, commit.

A handler yields the records that follow from what it did. **When the `yield` returns, they are in
every in-sync replica**, so it can also say what it is about to do before it does it. Only this
module writes to Kafka and commits offsets: the order that loses nothing (the effect, the records,
the offsets) stands in one place. A crash between any two steps means that the batch comes again,
and handlers are built to bear that.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeAlias, TypeVar

from courant import backoff, metrics
from courant.errors import Behind, Fenced, Unavailable
from courant.records import Batch, Dead, Effect, Outgoing, Record, Verdict, sift
from courant.topics import Partition, Positions

T = TypeVar("T")
Steps: TypeAlias = Generator[Sequence[Effect], None, None]
log = logging.getLogger(__name__)


class Consumer(Protocol):
    """A member of a consumer group. What it raises beyond these names ends the process."""

    def poll(self, limit: int) -> Sequence[Record]:
        """Give up to `limit` records from where this member stands; raises Unavailable."""

    def positions(self) -> Positions:
        """Tell where this member stands in each partition it holds."""

    def seek(self, positions: Positions) -> None:
        """Stand there. Partitions that are no longer held are passed over."""

    def starts(self, partitions: Iterable[Partition]) -> Positions:
        """Tell where the log of each begins."""

    def rest(self, delay: timedelta) -> None:
        """Wait and stay in the group: keep polling, all partitions paused, new ones too."""

    def commit(self, records: Sequence[Record]) -> None:
        """Mark the records as done, for good; raises Fenced, Unavailable."""

    def commit_at(self, positions: Positions) -> None:
        """Mark what is before these as done, and what is not as not; raises likewise."""


class Producer(Protocol):
    """A writer of records."""

    def produce(self, outgoing: Outgoing) -> None:
        """Queue a record."""

    def flush(self) -> None:
        """Return when every in-sync replica has all that is queued.

        Raises Unavailable; what is not acknowledged stays queued, and flush may be called again.
        """


@dataclass(frozen=True, slots=True)
class Stage(Generic[T]):
    """What a service does with one lane. Each stage has a consumer and a thread of its own."""

    group: str
    topics: tuple[str, ...]
    decide: Callable[[Record], Verdict[T]]
    handle: Callable[[Batch[T]], Steps]
    compare: Callable[[Positions], None] = lambda _: None  # raises Behind
    skip: Callable[[Positions], None] = lambda _: None  # told where a log begins that lost records
    limit: int = 500  # records a batch


COMPARE_EVERY = timedelta(seconds=1)


def every(span: timedelta) -> Callable[[], bool]:
    """Give a question that is answered yes once in a span of time."""
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
) -> None:
    """Take batch after batch; in bad weather stand still, without leaving the group."""
    comparing = comparing or every(COMPARE_EVERY)
    delays = backoff.delays()
    while not stopping():
        try:
            step(consumer, producer, stage, comparing())
            delays = backoff.delays()
        except Unavailable as weather:
            log.warning("bad weather", extra={"group": stage.group, "reason": str(weather)})
            metrics.UNAVAILABLE.labels(stage.group).inc()
            consumer.rest(next(delays))


def step(consumer: Consumer, producer: Producer, stage: Stage[T], comparing: bool) -> None:
    """Take one batch from poll to commit; raises Unavailable, standing at its start again."""
    batch: Batch[T] = Batch([], [], {})
    try:
        if comparing:
            # A partition without news has no batch by which to notice that Postgres went back.
            stage.compare(consumer.positions())
        records = consumer.poll(stage.limit)
        if not records:
            producer.flush()  # takes what the client is told meanwhile: unasked, it keeps all of it
            return
        batch = sift(records, stage.decide)
        write(consumer, producer, batch.dead)
        with closing(stage.handle(batch)) as steps:
            for effects in steps:
                write(consumer, producer, effects)
        consumer.commit(records)
        metrics.count(metrics.RECORDS, (record.partition.topic for record in records))
    except Behind as behind:
        log.warning("Postgres is behind, reading again", extra={"group": stage.group})
        go_back(consumer, stage, behind.places)
    except Unavailable:
        consumer.seek({partition: offsets.start for partition, offsets in batch.span.items()})
        raise
    except Fenced:
        # What was done stays done: the new owner reads the batch again and changes nothing.
        log.info("partitions moved away before commit", extra={"group": stage.group})


def go_back(consumer: Consumer, stage: Stage[T], places: Positions) -> None:
    """Stand where Postgres stands, or where the log begins, if that is later."""
    starts = consumer.starts(places)
    gone = {each: start for each, start in starts.items() if start > places[each]}
    if gone:
        for each, start in gone.items():
            metrics.GONE.labels(each.topic).inc(start - places[each])
            lost = {"topic": each.topic, "partition": each.number, "records": start - places[each]}
            log.error("records left the log before they were folded", extra=lost)
        stage.skip(gone)
    places = {each: max(place, starts[each]) for each, place in places.items()}
    consumer.seek(places)
    with suppress(Fenced):
        # Or each start would find Postgres behind again, and renew the hold.
        consumer.commit_at(places)


def write(consumer: Consumer, producer: Producer, effects: Sequence[Effect]) -> None:
    """Return when every in-sync replica has the records.

    Never gives up: a provider's answer must not die in memory because the broker was slow, and
    whoever was fenced meanwhile has it to tell all the same.
    """
    for effect in effects:
        producer.produce(effect.letter() if isinstance(effect, Dead) else effect)
    for delay in backoff.delays() if effects else ():
        try:
            producer.flush()
            break
        except Unavailable:
            consumer.rest(delay)
    dead = (each.record.partition.topic for each in effects if isinstance(each, Dead))
    metrics.count(metrics.DEAD_LETTERS, dead)
