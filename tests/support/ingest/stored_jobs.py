"""Writes jobs straight into Postgres for tests: jobs, chunks, and rows with their states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg2

from courant import bulk, ids
from courant.contracts import ENCODE, Content, JobRow
from courant.postgres.database import copy_lines
from support.ingest.world import EMAIL_TEMPLATE, RING, SERVICE, key

STORED = (
    "id", "service_id", "key_id", "key_type", "template_id", "template_version", "channel", "lane",
    "job_id", "job_row", "recipient_hash", "sealed", "accepted_at", "state",
)  # fmt: skip


@dataclass
class StoredJobs:
    """Writes with the role that owns the database."""

    url: str
    made: list[UUID] = field(default_factory=list)

    def job(self, rows: int, **more: Any) -> UUID:
        """Insert a job without chunks, and return its id."""
        id, now = more.pop("id", None) or ids.new(datetime.now(UTC)), datetime.now(UTC)
        given = {
            "id": id,
            "upload_id": id,
            "chunks": 1,
            "rows": rows,
            "digest": b"",
            "service_id": SERVICE,
            "key_id": key(1).id,
            "key_type": "normal",
            "template_id": EMAIL_TEMPLATE,
            "template_version": 1,
            "channel": "email",
            "name": RING.encrypt(b"list.csv", owner=id.bytes),
            "accepted_at": now,
            **more,
        }
        names = ", ".join(given)
        self.execute(f"INSERT INTO jobs ({names}) VALUES %s", tuple(given.values()))
        self.made.append(id)
        return id

    def chunk(self, job: UUID, first: int, to: Sequence[str], settled: bool = True) -> None:
        """Insert a chunk of a job. The upload has the job's id."""
        rows = [JobRow(to=each, recipient_hash=b"h") for each in to]
        packed = bulk.pack(RING, job, first, first, rows)
        self.execute(
            "INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed, settled_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, CASE WHEN %s THEN now() END)",
            job, first, first, len(to), b"", packed.sealed, settled,
        )  # fmt: skip

    def rows(self, job: UUID, numbers: Sequence[int], state: Callable[[int], str]) -> None:
        """Insert rows of a job as the saver does."""
        self.execute("SELECT courant_make_day('notifications', %s)", ids.day_of(job))
        now = datetime.now(UTC)

        def row(number: int) -> tuple[object, ...]:
            id = ids.of_row(job, number)
            content = ENCODE(Content(to=f"person-{number}@example.com"))
            sealed = RING.encrypt(content, owner=id.bytes)
            return (
                id, SERVICE, key(1).id, "normal", EMAIL_TEMPLATE, 1, "email", "bulk", job, number,
                b"h" * 16, sealed, now, state(number),
            )  # fmt: skip

        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            copy = f"COPY notifications ({', '.join(STORED)}) FROM STDIN"
            cursor.copy_expert(copy, copy_lines(map(row, numbers)))
        connection.close()

    def execute(self, statement: str, *values: object) -> None:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
        finally:
            connection.close()
