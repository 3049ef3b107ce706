"""Recovery's rows of jobs on the Postgres in memory, which `job_twins` compares with the real."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from courant.bulk import ChunkRef
from courant.lifecycle import State
from courant.topics import Lane
from recovery.rows import OverdueRow
from simulation.job_stores import chunk_ref, count, note_ordered, note_saved
from simulation.outside import RecoveryRows

REORDERED_AFTER = timedelta(minutes=1)
"""The simulation shortens it to a tick, because its histories last some leases."""


class JobRecoveryRows(RecoveryRows):
    """`sweeps.Rows`, with the sweeps of jobs."""

    def cancelled(self, delivery: datetime, limit: int) -> list[OverdueRow]:
        return self._rows(
            State.CREATED,
            lambda row: (
                row.notification.job_id
                and self.tables.jobs.cancelled(row.notification.job_id)
                and row.notification.lane is Lane.BULK
                and (row.not_before is None or row.not_before <= row.issued_at)
                and row.issued_at < delivery
            ),
            limit,
        )

    def incomplete(self, before: datetime, limit: int) -> list[ChunkRef]:
        if self.tables.jobs.held:
            return []
        chunks = [
            chunk_ref(job, row)
            for job in self.tables.jobs.jobs.values()
            for row in self.tables.jobs.chunks_of(job.seal.upload_id)
            if row.under_way
            and row.saved_at is None
            and row.issued_at
            and row.issued_at < before - min(2 ** (row.orders - 1) - 1, 60) * REORDERED_AFTER
            and not self.tables.jobs.cancelled(job.seal.job_id)
        ]
        counted = [*zip(chunks, count(self.tables, chunks), strict=True)][:limit]
        whole = [chunk for chunk, stored in counted if stored.there == chunk.rows]
        note_saved(self.tables, whole, self.now)
        return [chunk for chunk, stored in counted if stored.there < chunk.rows]

    def ordered(self, chunks: Sequence[ChunkRef]) -> None:
        note_ordered(self.tables, chunks, self.now, "ordered-again")
