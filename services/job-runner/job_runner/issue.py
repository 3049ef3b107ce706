"""Giving the chunks of due jobs their orders, no more than their lane can take.

Every runner goes these rounds; a lock of Postgres's lets one at a time through. An order is given
before it is noted: a crash between the two gives it twice, which changes nothing.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from courant import jobs, metrics
from courant.consume import Producer
from courant.errors import Refused, Unavailable
from courant.jobs import Place, Stored
from courant.topics import Channel
from job_runner import rules
from job_runner.rules import Due

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.25
LOOKED_AT = 32
"""So many chunks of a channel, the oldest ones, are counted in a round."""


@dataclass(frozen=True, slots=True)
class Out:
    """A chunk that has its order and is not settled."""

    place: Place
    channel: Channel
    service_id: UUID
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """A due job of which some chunk has no order yet."""

    id: UUID
    upload_id: UUID
    service_id: UUID
    channel: Channel
    chunks: int  # that its seal tells of
    digest: bytes
    started: bool
    left: int


class Round(Protocol):
    """One transaction of the runner whose turn it is."""

    def out(self) -> tuple[datetime, list[Out]]:
        """Give the time, and what is out and not stopped, the oldest first."""

    def count(self, places: Sequence[Place]) -> list[Stored]:
        """Count what is stored of each chunk."""

    def settle(self, saved: Sequence[Place], settled: Sequence[Place]) -> None:
        """Note of which chunks all rows are there, and which have left their lane."""

    def waiting(self) -> list[Waiting]:
        """Give the due jobs that have chunks without orders, each service's first ones first."""

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        """Give those of an upload's chunks, in their order."""

    def start(self, job_id: UUID) -> None:
        """Note that a job begins."""

    def unissued(self, upload_id: UUID, limit: int) -> list[int]:
        """Give the numbers of the next chunks without an order."""

    def issued(self, upload_id: UUID, numbers: Sequence[int]) -> None:
        """Note that these have their order now."""

    def finish(self) -> int:
        """Note which jobs are over: all of their chunks are settled, or they were cancelled."""


class Store(Protocol):
    """What the rounds need of a database."""

    def round(self) -> AbstractContextManager[Round | None]:
        """Begin a transaction; None while another runner has its turn, or a hold stands."""


class Issuer:
    """The rounds of one runner."""

    def __init__(self, store: Store, producer: Producer, lag_seconds: float) -> None:
        self._store, self._producer, self._lag_seconds = store, producer, lag_seconds
        self._settled: deque[tuple[float, Channel]] = deque()  # when, of which channel
        self._broken: set[UUID] = set()

    def run(self, wait: Callable[[float], bool]) -> None:
        """Go rounds until `wait` says that it is over."""
        while True:
            try:
                self.go()
            except (Unavailable, Refused) as error:
                log.warning("no orders given", extra={"reason": str(error)})
            if wait(EVERY_SECONDS):
                return

    def go(self) -> int:
        """Go one round; tell how many orders were given. Raises Unavailable, Refused."""
        with self._store.round() as turn:
            if turn is None:
                return 0
            now, out = self._settle(turn)
            given = self._issue(turn, now, out)
            if finished := turn.finish():
                log.info("jobs finished", extra={"jobs": finished})
        return given

    def _settle(self, turn: Round) -> tuple[datetime, list[Out]]:
        """Note what has left its lane; give what has not."""
        now, out = turn.out()
        looked_at: list[Out] = []
        for channel in Channel:
            looked_at += [each for each in out if each.channel is channel][:LOOKED_AT]
        counted = zip(looked_at, turn.count([each.place for each in looked_at]), strict=True)
        found = [(each, stored) for each, stored in counted if stored.there == each.place.rows]
        settled = [each for each, stored in found if rules.is_settled(each.place.rows, stored)]
        turn.settle([each.place for each, _ in found], [each.place for each in settled])
        self._settled.extend((time.monotonic(), each.channel) for each in settled)
        gone = {(each.place.upload_id, each.place.number) for each in settled}
        return now, [each for each in out if (each.place.upload_id, each.place.number) not in gone]

    def _issue(self, turn: Round, now: datetime, out: Sequence[Out]) -> int:
        waiting = [each for each in turn.waiting() if each.started or self._starts(turn, each)]
        metrics.JOBS_BROKEN.set(len(self._broken))
        given = 0
        for channel in Channel:
            its_out = [each for each in out if each.channel is channel]
            room = self._room(channel, its_out, now)
            its_waiting = [each for each in waiting if each.channel is channel]
            due = [Due(each.id, each.service_id, each.left) for each in its_waiting]
            chosen = rules.turns(due, Counter(each.service_id for each in its_out), room)
            for job in its_waiting:
                given += self._order(turn, job, chosen[job.id])
        return given

    def _room(self, channel: Channel, out: Sequence[Out], now: datetime) -> int | None:
        oldest = (now - out[0].issued_at).total_seconds() if out else 0.0
        metrics.CHUNKS_OUT.labels(channel).set(len(out))
        metrics.BULK_LAG.labels(channel).set(oldest)
        while self._settled and self._settled[0][0] < time.monotonic() - self._lag_seconds:
            self._settled.popleft()
        settled = sum(each is channel for _, each in self._settled)
        return rules.room(len(out), oldest, settled, self._lag_seconds)

    def _starts(self, turn: Round, job: Waiting) -> bool:
        """Start a job if its chunks are those that were sealed; what is missing may still come."""
        if rules.is_whole(turn.fingerprints(job.upload_id), job.chunks, job.digest):
            self._broken.discard(job.id)
            turn.start(job.id)
            log.info("job starts", extra={"job_id": job.id, "chunks": job.chunks})
            return True
        if job.id not in self._broken:
            self._broken.add(job.id)
            log.error("job lacks chunks", extra={"job_id": job.id, "chunks": job.chunks})
        return False

    def _order(self, turn: Round, job: Waiting, limit: int) -> int:
        numbers = turn.unissued(job.upload_id, limit) if limit else []
        for number in numbers:
            self._producer.produce(jobs.order(job.id, number))
        if numbers:
            self._producer.flush()
            turn.issued(job.upload_id, numbers)
        return len(numbers)
