"""Giving the chunks of due jobs their orders, no more than their lane can take.

Every runner goes these rounds; a lock of Postgres's lets one at a time through. An order is given
before it is noted: a crash between the two gives it twice, which changes nothing.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from courant import bulk, metrics
from courant.bulk import ChunkRef, StoredRows
from courant.consume import Producer
from courant.errors import Refused, Unavailable
from courant.topics import Channel
from job_runner import rules
from job_runner.rows import DueJob, OrderedChunk, WaitingJob

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.25
REPORT_EVERY_SECONDS = 10.0
CHECKED_MAX = 32
"""So many chunks of a channel, the oldest ones, are looked at in a round."""


class Round(Protocol):
    """One transaction of the runner whose turn it is."""

    def ordered_chunks(self) -> tuple[datetime, list[OrderedChunk]]:
        """Give the time, and what is out and not stopped: what is in the lane first, by age."""

    def count_rows(self, places: Sequence[ChunkRef]) -> list[StoredRows]:
        """Count what is stored of each chunk."""

    def record_settled(self, saved: Sequence[ChunkRef], settled: Sequence[ChunkRef]) -> None:
        """Note of which chunks all rows are there, and which have left their lane."""

    def settled_since(self, seconds: float) -> Mapping[Channel, int]:
        """Count the chunks that left their lane in the last seconds."""

    def stuck_jobs(self) -> list[UUID]:
        """Give the jobs that wait for chunks or rows that did not come, though they should have."""

    def waiting_jobs(self) -> list[WaitingJob]:
        """Give the due jobs that have chunks without orders, each service's first ones first.

        Only those all of whose chunks are there: what is missing may still come.
        """

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        """Give those of an upload's chunks, in their order."""

    def start_job(self, job_id: UUID) -> None:
        """Note that a job begins."""

    def unordered_chunks(self, job_id: UUID, limit: int) -> list[ChunkRef]:
        """Give a job's next chunks without an order."""

    def record_orders(self, places: Sequence[ChunkRef]) -> None:
        """Note that these have their order now."""

    def finish_jobs(self) -> int:
        """Note which jobs are over: all of their chunks are settled, or they were cancelled."""


class Store(Protocol):
    """What the rounds need of a database."""

    def round(self) -> AbstractContextManager[Round | None]:
        """Begin a transaction; None while another runner has its turn, or a hold stands."""


class Dispatcher:
    """The rounds of one runner."""

    def __init__(self, store: Store, producer: Producer, lag_seconds: float) -> None:
        self._store, self._producer, self._lag_seconds = store, producer, lag_seconds
        self._stuck: frozenset[UUID] = frozenset()
        self._reported_at = -REPORT_EVERY_SECONDS
        self._unavailable: str | None = None

    def run(self, wait: Callable[[float], bool]) -> None:
        """Go rounds until `wait` says that it is over."""
        while True:
            try:
                self.run_round()
                self._unavailable = None
            except (Unavailable, Refused) as error:
                if str(error) != self._unavailable:
                    log.warning("no orders given", extra={"reason": str(error)})
                self._unavailable = str(error)
            if wait(EVERY_SECONDS):
                return

    def run_round(self) -> int:
        """Go one round; tell how many orders were given. Raises Unavailable, Refused."""
        self._producer.flush()  # what an earlier round could not write, or it would be queued anew
        with self._store.round() as turn:
            if turn is None:
                return 0
            now, out = self._settle(turn)
            if time.monotonic() > self._reported_at + REPORT_EVERY_SECONDS:
                self._report_stuck(turn)
            given = self._order_chunks(turn, now, out)
            if finished := turn.finish_jobs():
                log.info("jobs finished", extra={"jobs": finished})
        return given

    def _settle(self, turn: Round) -> tuple[datetime, list[OrderedChunk]]:
        """Note what has left its lane; give what has not."""
        now, out = turn.ordered_chunks()
        looked_at: list[OrderedChunk] = []
        for channel in Channel:
            looked_at += [each for each in out if each.channel is channel][:CHECKED_MAX]
        counted = zip(looked_at, turn.count_rows([each.chunk for each in looked_at]), strict=True)
        found = [(each.chunk, stored) for each, stored in counted]
        saved = [place for place, stored in found if stored.there == place.rows]
        settled = {place for place, stored in found if rules.is_settled(place.rows, stored)}
        turn.record_settled(saved, [*settled])
        return now, [each for each in out if each.in_lane and each.chunk not in settled]

    def _report_stuck(self, turn: Round) -> None:
        """Tell of jobs that cannot go on by themselves."""
        self._reported_at = time.monotonic()
        lacking = frozenset(turn.stuck_jobs())
        metrics.JOBS_BROKEN.set(len(lacking))
        for job_id in lacking - self._stuck:
            log.error("job lacks rows", extra={"job_id": job_id})
        self._stuck = lacking

    def _order_chunks(self, turn: Round, now: datetime, out: Sequence[OrderedChunk]) -> int:
        waiting = [each for each in turn.waiting_jobs() if each.started or self._starts(turn, each)]
        settled = turn.settled_since(self._lag_seconds)
        given = 0
        for channel in Channel:
            its_out = [each for each in out if each.channel is channel]
            room = self._room(channel, its_out, now, settled.get(channel, 0))
            its_waiting = [each for each in waiting if each.channel is channel]
            due = [DueJob(each.id, each.service_id, each.left) for each in its_waiting]
            chosen = rules.share_orders(due, Counter(each.service_id for each in its_out), room)
            for job in its_waiting:
                given += self._order_chunks_of(turn, job, chosen[job.id])
        return given

    def _room(
        self, channel: Channel, out: Sequence[OrderedChunk], now: datetime, settled: int
    ) -> int | None:
        oldest = (now - out[0].issued_at).total_seconds() if out else 0.0
        metrics.CHUNKS_OUT.labels(channel).set(len(out))
        metrics.BULK_LAG.labels(channel).set(oldest)
        return rules.orders_allowed(len(out), oldest, settled, self._lag_seconds)

    def _starts(self, turn: Round, job: WaitingJob) -> bool:
        """Start a job if its chunks are those that were sealed."""
        if not rules.is_whole(turn.fingerprints(job.upload_id), job.chunks, job.digest):
            return False
        turn.start_job(job.id)
        log.info("job starts", extra={"job_id": job.id, "chunks": job.chunks})
        return True

    def _order_chunks_of(self, turn: Round, job: WaitingJob, limit: int) -> int:
        places = turn.unordered_chunks(job.id, limit) if limit else []
        for place in places:
            self._producer.produce(bulk.chunk_order(job.id, place.number))
        if places:
            self._producer.flush()
            turn.record_orders(places)
        return len(places)
