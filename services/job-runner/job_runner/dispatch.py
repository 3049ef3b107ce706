"""Ordering the chunks of due jobs, no faster than their lane can take them.

Every job-runner runs these rounds, and an advisory lock in Postgres lets one of them in at a time.
An order is produced before it is recorded. A crash between the two orders a chunk twice, which
changes nothing.
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
from courant.backoff import Progress
from courant.bulk import ChunkRef, StoredRows
from courant.consume import Producer
from courant.errors import Refused, Unavailable
from courant.runbooks import Runbook
from courant.topics import Channel
from job_runner import rules
from job_runner.rows import DueJob, OrderedChunk, WaitingJob

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.25
REPORT_EVERY_SECONDS = 10.0
CHECKED_MAX = 32
"""Chunks of a channel whose rows are counted in one round, the oldest ones first."""


class Round(Protocol):
    """One round's transaction, in the job-runner that holds the lock."""

    def ordered_chunks(self) -> tuple[datetime, list[OrderedChunk]]:
        """Return Postgres's time and the ordered chunks that no hold or pause stops.

        The chunks in the lane come first, the oldest first.
        """

    def count_rows(self, chunks: Sequence[ChunkRef]) -> list[StoredRows]:
        """Count the stored rows of each chunk."""

    def record_settled(self, saved: Sequence[ChunkRef], settled: Sequence[ChunkRef]) -> None:
        """Record which chunks have all rows stored, and which have left their lane."""

    def settled_since(self, seconds: float) -> Mapping[Channel, int]:
        """Count by channel the chunks that left their lane in the last `seconds`."""

    def stuck_jobs(self) -> list[UUID]:
        """Return the jobs whose missing chunks or rows are overdue."""

    def waiting_jobs(self) -> list[WaitingJob]:
        """Return the due jobs that have chunks without an order, the oldest first.

        A job is returned only if all of its chunks are stored: a missing chunk may still come.
        """

    def fingerprints(self, upload_id: UUID) -> list[bytes]:
        """Return the fingerprints of an upload's chunks, in their order."""

    def start_job(self, job_id: UUID) -> None:
        """Record that a job has started."""

    def unordered_chunks(self, job_id: UUID, limit: int) -> list[ChunkRef]:
        """Return a job's next chunks without an order."""

    def record_orders(self, chunks: Sequence[ChunkRef]) -> None:
        """Record that these chunks have been ordered."""

    def finish_jobs(self) -> int:
        """Record which jobs are finished: all chunks are settled, or the job was cancelled.

        Returns how many.
        """


class Store(Protocol):
    """What the rounds need from their database."""

    def round(self) -> AbstractContextManager[Round | None]:
        """Begin a transaction; None while another job-runner has the lock, or a hold stands."""


class Dispatcher:
    """Runs the rounds of one job-runner."""

    def __init__(self, store: Store, producer: Producer, lag_seconds: float) -> None:
        self._store, self._producer, self._lag_seconds = store, producer, lag_seconds
        self._stuck: frozenset[UUID] = frozenset()
        self._reported_at = -REPORT_EVERY_SECONDS
        self._unavailable: str | None = None
        self.progress = Progress("job-runner.rounds")

    def run(self, wait: Callable[[float], bool]) -> None:
        """Run rounds until `wait` returns true."""
        while True:
            self.progress.turn()
            try:
                self.run_round()
                self._unavailable = None
            except (Unavailable, Refused) as error:
                if str(error) != self._unavailable:
                    log.warning("chunk orders paused", extra={"reason": str(error)})
                self._unavailable = str(error)
            if wait(EVERY_SECONDS):
                return

    def run_round(self) -> int:
        """Run one round and return how many chunks were ordered. Raises Unavailable, Refused."""
        # Orders that an earlier round could not write go first, or they would be queued twice.
        self._producer.flush()
        with self._store.round() as turn:
            if turn is None:
                return 0
            now, out = self._settle(turn)
            if time.monotonic() > self._reported_at + REPORT_EVERY_SECONDS:
                self._report_stuck(turn)
            ordered = self._order_chunks(turn, now, out)
            if finished := turn.finish_jobs():
                log.info("jobs finished", extra={"jobs": finished})
        return ordered

    def _settle(self, turn: Round) -> tuple[datetime, list[OrderedChunk]]:
        """Record which chunks have left their lane, and return those that have not."""
        now, out = turn.ordered_chunks()
        checked: list[OrderedChunk] = []
        for channel in Channel:
            checked += [each for each in out if each.channel is channel][:CHECKED_MAX]
        counted = zip(checked, turn.count_rows([each.chunk for each in checked]), strict=True)
        rows = [(each.chunk, stored) for each, stored in counted]
        saved = [chunk for chunk, stored in rows if stored.there == chunk.rows]
        settled = {chunk for chunk, stored in rows if rules.is_settled(chunk.rows, stored)}
        turn.record_settled(saved, [*settled])
        return now, [each for each in out if each.in_lane and each.chunk not in settled]

    def _report_stuck(self, turn: Round) -> None:
        """Count and log the jobs that cannot go on by themselves."""
        self._reported_at = time.monotonic()
        stuck = frozenset(turn.stuck_jobs())
        metrics.JOBS_BROKEN.set(len(stuck))
        for job_id in stuck - self._stuck:
            fields = {"job_id": job_id, "runbook": Runbook.JOB_LACKS_ROWS}
            log.error("job lacks rows", extra=fields)
        self._stuck = stuck

    def _order_chunks(self, turn: Round, now: datetime, out: Sequence[OrderedChunk]) -> int:
        waiting = [each for each in turn.waiting_jobs() if each.started or self._starts(turn, each)]
        settled = turn.settled_since(self._lag_seconds)
        ordered = 0
        for channel in Channel:
            channel_out = [each for each in out if each.channel is channel]
            room = self._orders_allowed(channel, channel_out, now, settled.get(channel, 0))
            channel_jobs = [each for each in waiting if each.channel is channel]
            due = [DueJob(each.id, each.service_id, each.left) for each in channel_jobs]
            chosen = rules.share_orders(due, Counter(each.service_id for each in channel_out), room)
            for job in channel_jobs:
                ordered += self._order_chunks_of(turn, job, chosen[job.id])
        return ordered

    def _orders_allowed(
        self, channel: Channel, out: Sequence[OrderedChunk], now: datetime, settled: int
    ) -> int | None:
        oldest = (now - out[0].issued_at).total_seconds() if out else 0.0
        metrics.CHUNKS_OUT.labels(channel).set(len(out))
        metrics.BULK_LAG.labels(channel).set(oldest)
        return rules.orders_allowed(len(out), oldest, settled, self._lag_seconds)

    def _starts(self, turn: Round, job: WaitingJob) -> bool:
        """Start a job if its chunks are exactly those of its seal; return whether it started."""
        if not rules.is_whole(turn.fingerprints(job.upload_id), job.chunks, job.digest):
            return False
        turn.start_job(job.id)
        log.info("job started", extra={"job_id": job.id, "chunks": job.chunks})
        return True

    def _order_chunks_of(self, turn: Round, job: WaitingJob, limit: int) -> int:
        chunks = turn.unordered_chunks(job.id, limit) if limit else []
        for chunk in chunks:
            self._producer.produce(bulk.chunk_order(job.id, chunk.number))
        if chunks:
            self._producer.flush()
            turn.record_orders(chunks)
        return len(chunks)
