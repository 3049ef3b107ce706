"""Job-runner's stages: one stores uploads, the other turns ordered chunks into notifications."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from courant import bulk, clock
from courant.consume import Stage, Steps
from courant.contracts import ChunkOrder, JobRecord, Malformed, Seal
from courant.crypto import KeyRing, Undecryptable
from courant.errors import Shortened
from courant.records import Batch, Dead, Keep, Span, isolate
from courant.runbooks import Runbook
from courant.topics import CHUNKS, JOBS, Folded, Partition, Positions, group
from job_runner import rules
from job_runner.rows import StoredChunk

T = TypeVar("T")
log = logging.getLogger(__name__)

RECORDS_MAX = 50
"""Records of `jobs` in one batch. A chunk may have half a megabyte."""
ORDERS_MAX = 4
"""Chunks in one batch. A crash repeats a batch, so at most this many chunks come into the inbox
twice, which changes nothing."""


class Fold(Protocol):
    """One transaction. Its changes and Postgres's position in the log commit together."""

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        """Return the records that no earlier transaction has folded."""

    def store(self, records: Sequence[JobRecord]) -> Sequence[Seal]:
        """Store the records, all or none; raises Refused.

        Returns the seals whose Idempotency-Key was used with another body, and the seals to be
        written again, with `instead_of`: their jobs had begun when an earlier one was read.
        """

    def trial(self) -> AbstractContextManager[None]:
        """Undo at its end whatever is done inside."""


class Store(Protocol):
    """What the stages need from their database."""

    def compare(self, positions: Positions) -> Mapping[Partition, Folded]:
        """Return Postgres's positions; raises Behind, and a hold, if one is before `positions`."""

    def cut(self, shortened: Shortened) -> None:
        """Raise the hold and set positions back, because the log lost records."""

    def skip(self, starts: Positions) -> None:
        """Move Postgres's positions to the log's start: earlier records are deleted."""

    def fold(self, span: Span) -> AbstractContextManager[Fold]:
        """Begin a transaction that moves Postgres's position in the log past `span`'s records.

        Raises Behind if Postgres's position is before `span`, Shortened if a record below it is
        new.
        """

    def chunk(self, job_id: UUID, number: int) -> StoredChunk | None:
        """Return a chunk, or None if nothing is left to do for it."""


def stages(store: Store, ring: KeyRing) -> list[Stage[Any]]:
    """Return a stage for each consumer group of job-runner."""
    return [
        Stage(
            group("job-runner", JOBS),
            (JOBS.name,),
            partial(rules.read_job, ring),
            partial(fold_jobs, store),
            compare=store.compare,
            cut=store.cut,
            skip=store.skip,
            limit=RECORDS_MAX,
        ),
        Stage(
            group("job-runner", CHUNKS),
            (CHUNKS.name,),
            rules.read_order,
            partial(expand_chunks, store, ring),
            limit=ORDERS_MAX,
        ),
    ]


def fold_jobs(store: Store, batch: Batch[JobRecord]) -> Steps:
    """Store chunks, seals and commands, once for each record."""
    with store.fold(batch.span) as fold:
        fresh = fold.fresh(batch.kept)
        seals, dead = isolate(fresh, fold.store, partial(try_ordinary, fold))
        again = [each for each in seals if each.instead_of]
        conflicting = [each.record for each in fresh if each.value in seals]
        # These records must be durable before the commit: afterwards Postgres's position is past
        # these records, and they would never be read again.
        yield [
            *dead,
            *map(rules.sealed_again, again),
            *(Dead(each, "idempotency: the key came with another body") for each in conflicting),
        ]


def try_ordinary(fold: Fold, record: JobRecord) -> None:
    """Raise Refused if Postgres would refuse an ordinary record of that kind too."""
    with fold.trial():
        fold.store([rules.ordinary(record)])


def expand_chunks(store: Store, ring: KeyRing, batch: Batch[ChunkOrder]) -> Steps:
    """Turn each ordered chunk into inbox records.

    Nothing is marked as done here, because a chunk is done once Postgres has all of its rows.
    """
    for order in batch.kept:
        chunk = store.chunk(order.value.job_id, order.value.number)
        if chunk is None:
            continue
        try:
            rows = bulk.unpack(ring, chunk.upload_id, order.value.number, chunk.sealed)
        except (Malformed, Undecryptable) as error:
            # It could be decrypted when it was stored. Recovery's sweep orders it again, so it is
            # sent once the key is back.
            fields = {"job_id": chunk.job.id, "chunk": order.value.number, "reason": str(error)}
            log.error(
                "chunk cannot be opened", extra={**fields, "runbook": Runbook.CHUNK_UNREADABLE}
            )
            continue
        now = clock.now()
        yield [
            rules.notification(chunk.job, row, number, ring, now)
            for number, row in enumerate(rows, chunk.first)
        ]
