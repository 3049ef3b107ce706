"""A job's report: every row of its file, in its order, as CSV, a thousand rows at a time."""

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
from ingest.jobs.rules import unstored
from ingest.jobs.store import Stored, Stretch
from ingest.read import views

ROWS = 1_000  # of a part
COLUMNS = (
    "row number", "recipient", "reference", "notification id", "status", "status description",
    "provider response", "sent at", "completed at",
)  # fmt: skip
WAITS = {
    "pending": "Waits for its turn",
    "cancelled": "Not sent",
    None: "No longer kept",  # what became of it went with retention
}
# A cell that begins so is run as a formula by spreadsheets (OWASP, CSV injection).
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


class Rows(Protocol):
    """Where a job's rows are."""

    async def stretch(
        self, job: Job, first: int, last: int, write: Callable[[Stretch], bytes]
    ) -> bytes:
        """Read rows of a job, and give what `write` makes of them; raises Unavailable."""


class Recipient(msgspec.Struct, frozen=True):
    """What of a content a report shows."""

    to: str


TO = msgspec.json.Decoder(Recipient).decode


async def parts(rows: Rows, job: Job, ring: KeyRing) -> AsyncGenerator[bytes, None]:
    """Write a report, part by part; raises Unavailable where the rest cannot be read."""
    yield written([COLUMNS])
    for first in range(1, job.rows + 1, ROWS):
        last = min(first + ROWS - 1, job.rows)
        yield await rows.stretch(job, first, last, partial(stretch, job, ring))


def stretch(job: Job, ring: KeyRing, given: Stretch) -> bytes:
    """Write a stretch of a report: each of its rows once, whatever is known of it."""
    stored = {row.job_row: row for row in given.rows}
    waiting = {} if len(stored) > given.last - given.first else unpacked(job, ring, given)
    return written(
        [
            of_stored(job, ring, stored[number])
            if number in stored
            else of_waiting(job, number, waiting.get(number))
            for number in range(given.first, given.last + 1)
        ]
    )


def unpacked(job: Job, ring: KeyRing, given: Stretch) -> dict[int, JobRow]:
    """Open the rows of a stretch's chunks, by their number in the file."""
    found: dict[int, JobRow] = {}
    for each in given.chunks:
        try:
            rows = bulk.unpack(ring, job.upload_id, each.number, each.sealed)
        except (Undecryptable, Malformed):
            continue  # its rows are shown without what is personal
        found.update(enumerate(rows, each.first))
    return found


def of_stored(job: Job, ring: KeyRing, row: Stored) -> tuple[object, ...]:
    """Give the cells of a row that is a notification."""
    try:
        to = TO(ring.decrypt(row.sealed, owner=row.id.bytes)).to
    except (Undecryptable, msgspec.DecodeError):
        to = ""  # gone by retention
    named = views.status(job.channel, row.state)
    return (
        row.job_row, safe(to), safe(row.reference), row.id, named,
        views.description(job.channel, named, row.reason), safe(row.response),
        views.time(row.sent_at), views.time(row.state_at) if named in views.COMPLETED else None,
    )  # fmt: skip


def of_waiting(job: Job, number: int, row: JobRow | None) -> tuple[object, ...]:
    """Give the cells of a row that is not stored; it has no id before, nor after."""
    to, reference = (row.to, row.reference) if row else (None, None)
    named = unstored(job)
    return (number, safe(to), safe(reference), None, named, WAITS[named], None, None, None)


def safe(cell: str | None) -> str | None:
    """Keep spreadsheets from running a cell: a quote in front makes it text."""
    return f"'{cell}" if cell and cell.startswith(FORMULA) else cell


def written(rows: list[tuple[object, ...]]) -> bytes:
    """Write rows as CSV (RFC 4180); None is an empty cell."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()
