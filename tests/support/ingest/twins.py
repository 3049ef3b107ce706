"""Two stores of rows for the same tests, in memory and in Postgres, which tests can write to."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Engine

import job_runner.handle
import job_runner.rules
import job_runner.store
import saver.handle
import saver.rules
from courant.contracts import Notification, Seal
from courant.records import Outgoing, Record, sift
from courant.testing.builders import NOW, partition
from courant.topics import INBOX, JOBS, Family
from ingest import api
from ingest.accept import idempotency
from ingest.jobs.handle import Jobs
from ingest.jobs.store import JobStore
from ingest.read.store import Reader
from support.ingest.jobs import FakeJobs
from support.ingest.log import FakeLog
from support.ingest.rows import FakeRows
from support.job_runner import RING, written
from support.roles import acting
from support.saver import PostgresTwin

T = TypeVar("T")
WAIT_SECONDS = 60.0


class Rows(api.NotificationStore, idempotency.IdempotencyStore, Protocol):
    """What ingest asks of Postgres about notifications and Idempotency-Keys."""


class RowsTwin(Protocol):
    """Rows, and the log that they are folded from."""

    @property
    def rows(self) -> Rows: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def looks(self) -> int: ...
    def accept(self, *given: Notification | Seal) -> None: ...
    def save(self) -> None: ...
    def move(self, id: UUID, **changed: object) -> None: ...
    def away(self) -> AbstractContextManager[None]: ...
    def slow(self) -> AbstractContextManager[None]: ...


def ask(question: Coroutine[Any, Any, T]) -> T:
    """Return the answer to a question, which comes in time."""
    return asyncio.run(asyncio.wait_for(question, WAIT_SECONDS))


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, and let the others of the event loop go on meanwhile."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def outgoing(given: Notification | Seal) -> Outgoing:
    """Return a record as ingest writes it."""
    if isinstance(given, Seal):
        return written(given)
    topic = INBOX.topic(given.channel, given.lane)
    return Outgoing(topic, given.id.bytes, given.encode())


class FakeRowsTwin:
    def __init__(self) -> None:
        self.rows = FakeRows(FakeLog())

    @property
    def jobs(self) -> FakeJobs:
        return self.rows.jobs

    @property
    def looks(self) -> int:
        return self.rows.looks

    def accept(self, *given: Notification | Seal) -> None:
        for each in given:
            ask(self.rows.log.put(outgoing(each)))

    def save(self) -> None:
        self.rows.save()

    def move(self, id: UUID, **changed: object) -> None:
        self.rows.move(id, **changed)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.rows.works = self.jobs.works = False
        yield
        self.rows.works = self.jobs.works = True

    slow = away


class Looking(Reader):
    """A reader that counts its answers."""

    looks = 0

    async def ask(self, question: Any) -> Any:
        found = await super().ask(question)
        self.looks += 1
        return found


def reader(engine: Engine, statement_seconds: int = 600) -> Looking:
    """Return a reader with ingest's role, whose statements do not end before their test does."""
    url = engine.url.set(username="courant_ingest").render_as_string(hide_password=False)
    return Looking(url, 1, statement_seconds)


def emptied(engine: Engine) -> PostgresTwin:
    """Return a twin that writes to an emptied Postgres."""
    hand = PostgresTwin(engine)
    hand.ask("DELETE FROM jobs; DELETE FROM chunks; DELETE FROM wishes")
    return hand


def mark(hand: PostgresTwin, family: Family, ends: Mapping[str, int]) -> None:
    """Mark where a family's topics end, as recovery does every second."""
    hand.ask("DELETE FROM marks")
    for topic in family.names():
        hand.ask(
            "INSERT INTO marks VALUES (now() + interval '1 hour', :id, :family, :topic, :ends)",
            id=partition(topic).topic_id,
            family=family.name,
            topic=topic,
            ends=[ends[topic]],
        )


def fold_jobs(store: job_runner.handle.Store, records: Sequence[Record]) -> None:
    """Fold records of `jobs` as job-runner does."""
    kept = sift(records, partial(job_runner.rules.read_job, RING))
    _ = [*job_runner.handle.fold_jobs(store, kept)]


class PostgresRowsTwin:
    """Folds its log with the saver's and job-runner's own code."""

    def __init__(self, engine: Engine) -> None:
        self.hand = emptied(engine)
        self.runner = job_runner.store.PostgresStore(acting(engine, "courant_job_runner"))
        self.rows = reader(engine)
        self.jobs = JobStore(self.rows, self.rows)
        self.records: dict[str, list[Outgoing]] = {name: [] for name in (*INBOX.names(), JOBS.name)}
        self.folded = dict.fromkeys(self.records, 0)

    @property
    def looks(self) -> int:
        return self.rows.looks

    def accept(self, *given: Notification | Seal) -> None:
        for each in given:
            record = outgoing(each)
            self.records[record.topic].append(record)
        mark(self.hand, INBOX, {topic: len(each) for topic, each in self.records.items()})

    def save(self) -> None:
        for topic, records in self.records.items():
            first, self.folded[topic] = self.folded[topic], len(records)
            fresh = [
                Record(partition(topic), offset, each.key, each.value, each.headers, NOW)
                for offset, each in enumerate(records[first:], first)
            ]
            if fresh and topic == JOBS.name:
                fold_jobs(self.runner, fresh)
            elif fresh:
                _ = [*saver.handle.save(self.hand.store, sift(fresh, saver.rules.read_inbox))]

    def move(self, id: UUID, **changed: object) -> None:
        columns = ", ".join(f"{name} = :{name}" for name in changed)
        self.hand.ask(f"UPDATE notifications SET {columns} WHERE id = :id", id=id, **changed)

    def away(self) -> AbstractContextManager[None]:
        return away(self.hand)

    def slow(self) -> AbstractContextManager[None]:
        return locked(self.hand, "idempotency")

    def close(self) -> None:
        self.rows.close()


@contextmanager
def away(hand: PostgresTwin) -> Iterator[None]:
    """Let ingest's role have no connection."""
    hand.ask("ALTER ROLE courant_ingest NOLOGIN")
    hand.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'courant_ingest'"
    )
    try:
        yield
    finally:
        hand.ask("ALTER ROLE courant_ingest LOGIN")


@contextmanager
def locked(hand: PostgresTwin, table: str) -> Iterator[None]:
    """Let every statement about a table wait."""
    with hand.engine.connect() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
