"""What job-runner does: keeps what is uploaded, turns a chunk into notifications when ordered."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from courant import bulk, clock
from courant.consume import Stage, Steps
from courant.contracts import ChunkOrder, JobRecord, Malformed
from courant.crypto import KeyRing, Undecryptable
from courant.records import Batch, Dead, Keep, Span, isolate
from courant.topics import CHUNKS, JOBS, Positions, group
from job_runner import rules
from job_runner.rows import StoredChunk

T = TypeVar("T")
log = logging.getLogger(__name__)

RECORDS_MAX = 50
"""Of `jobs` in a batch; a chunk may have half a megabyte."""
ORDERS_MAX = 4
"""A crash repeats a batch: so many chunks come twice into the inbox at most, and change nothing."""


class Fold(Protocol):
    """One transaction. What is kept in it and Postgres's place in the log hold together or not."""

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        """Give those that no transaction before this one has folded."""

    def store(self, records: Sequence[JobRecord]) -> Sequence[JobRecord]:
        """Keep them, all or none; raises Refused.

        Gives those seals whose Idempotency-Key another body has come with before.
        """


class Store(Protocol):
    """What the stages need of a database."""

    def compare(self, positions: Positions) -> None:
        """Raise Behind, and the hold that goes with it, where Postgres has not read so far."""

    def skip(self, starts: Positions) -> None:
        """Move the places on to where the log begins: what was before has left it."""

    def fold(self, span: Span) -> AbstractContextManager[Fold]:
        """Begin a transaction that moves Postgres's place past `span`; raises Behind likewise."""

    def chunk(self, job_id: UUID, number: int) -> StoredChunk | None:
        """Give a chunk; None where nothing is left to do for it."""


def stages(store: Store, ring: KeyRing) -> list[Stage[Any]]:
    """Give all that job-runner consumes."""
    return [
        Stage(
            group("job-runner", JOBS),
            (JOBS.name,),
            partial(rules.read_job, ring),
            partial(fold_jobs, store),
            compare=store.compare,
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
    """Keep chunks, seals and wishes; each record once."""
    with store.fold(batch.span) as fold:
        fresh = fold.fresh(batch.kept)
        refused, dead = isolate(fresh, fold.store)
        other = [each.record for each in fresh if each.value in refused]
        # Inside, since Postgres will be past them: nobody would see them again.
        yield [
            *dead,
            *(Dead(each, "idempotency: the key came with another body") for each in other),
        ]


def expand_chunks(store: Store, ring: KeyRing, batch: Batch[ChunkOrder]) -> Steps:
    """Turn chunks into notifications, and mark nothing: done is what Postgres counts."""
    for order in batch.kept:
        held = store.chunk(order.value.job_id, order.value.number)
        if held is None:
            continue
        try:
            rows = bulk.unpack(ring, held.upload_id, order.value.number, held.sealed)
        except (Malformed, Undecryptable) as error:
            # It did open when it was kept. Once it does again, a sweep's order will find it.
            told = {"job_id": held.job.id, "chunk": order.value.number, "reason": str(error)}
            log.error("chunk cannot be opened", extra=told)
            continue
        now = clock.now()
        yield [
            rules.notification(held.job, row, number, ring, now)
            for number, row in enumerate(rows, held.first)
        ]
