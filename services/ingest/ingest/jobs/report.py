"""Writes a job's report: every row of its file in order, as CSV, a thousand rows at a time."""

import csv
import io
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Protocol

import msgspec

from courant import bulk
from courant.contracts import JobRow, Malformed
from courant.crypto import KeyRing, Undecryptable
from ingest.jobs.rows import Job
from ingest.jobs.rules import status_of_unstored_rows
from ingest.jobs.store import RowRange, StoredRow
from ingest.read import views

PART_ROWS = 1_000
COLUMNS = (
    "row number", "recipient", "reference", "notification id", "status", "status description",
    "provider response", "sent at", "completed at",
)  # fmt: skip
UNSTORED_DESCRIPTIONS = {
    "pending": "Waits for its turn",
    "cancelled": "Not sent",
    None: "No longer kept",  # retention removed the row with its outcome
}
# Spreadsheets run a cell that begins with one of these as a formula (OWASP, CSV injection).
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


class JobRows(Protocol):
    """Reads the rows of jobs."""

    async def read_rows(
        self, job: Job, first: int, last: int, write: Callable[[RowRange], bytes]
    ) -> bytes:
        """Read rows of a job, pass them to `write` and return its result. Raises Unavailable."""


class RecipientOnly(msgspec.Struct, frozen=True):
    """The only field of a notification's content that a report shows."""

    to: str


DECODE_RECIPIENT = msgspec.json.Decoder(RecipientOnly).decode


async def parts(rows: JobRows, job: Job, key_ring: KeyRing) -> AsyncGenerator[bytes, None]:
    """Yield a report part by part. Raises Unavailable if the rest cannot be read."""
    yield as_csv([COLUMNS])
    for first in range(1, job.rows + 1, PART_ROWS):
        last = min(first + PART_ROWS - 1, job.rows)
        yield await rows.read_rows(job, first, last, partial(report_part, job, key_ring))


def report_part(job: Job, key_ring: KeyRing, row_range: RowRange) -> bytes:
    """Return the CSV of a range. Each row is in it once, however little is known of the row."""
    first, last = row_range.first, row_range.last
    stored = {row.job_row: row for row in row_range.rows}
    complete = len(stored) > last - first
    unstored = {} if complete else unstored_rows(job, key_ring, row_range)
    return as_csv(
        [
            stored_cells(job, key_ring, stored[number])
            if number in stored
            else unstored_cells(job, number, unstored.get(number))
            for number in range(first, last + 1)
        ]
    )


def unstored_rows(job: Job, key_ring: KeyRing, row_range: RowRange) -> dict[int, JobRow]:
    """Return the rows in a range's chunks, by their number in the file."""
    rows_by_number: dict[int, JobRow] = {}
    for chunk in row_range.chunks:
        try:
            rows = bulk.unpack(key_ring, job.upload_id, chunk.number, chunk.sealed)
        except (Undecryptable, Malformed):
            continue  # the report shows these rows without recipient and reference
        rows_by_number.update(enumerate(rows, chunk.first))
    return rows_by_number


def stored_cells(job: Job, key_ring: KeyRing, row: StoredRow) -> tuple[object, ...]:
    """Return the cells of a row that is stored as a notification."""
    try:
        to = DECODE_RECIPIENT(key_ring.decrypt(row.sealed, owner=row.id.bytes)).to
    except (Undecryptable, msgspec.DecodeError):
        to = ""  # retention removed the content
    status = views.status(job.channel, row.state)
    return (
        row.job_row, without_formula(to), without_formula(row.reference), row.id, status,
        views.description(job.channel, status, row.reason), without_formula(row.response),
        views.time(row.sent_at), views.time(row.state_at) if status in views.COMPLETED else None,
    )  # fmt: skip


def unstored_cells(job: Job, number: int, row: JobRow | None) -> tuple[object, ...]:
    """Return the cells of a row that is not stored, and so has no notification id."""
    to, reference = (row.to, row.reference) if row else (None, None)
    status = status_of_unstored_rows(job)
    return (
        number, without_formula(to), without_formula(reference), None, status,
        UNSTORED_DESCRIPTIONS[status], None, None, None,
    )  # fmt: skip


def without_formula(cell: str | None) -> str | None:
    """Return the cell, with a quote in front if a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell and cell.startswith(FORMULA) else cell


def as_csv(rows: list[tuple[object, ...]]) -> bytes:
    """Return rows as CSV (RFC 4180). None is an empty cell."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
