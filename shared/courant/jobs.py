"""What job-runner and recovery both ask and say of a job's chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg2 import extensions

from courant import ids
from courant.contracts import ChunkOrder
from courant.lifecycle import State
from courant.records import Outgoing
from courant.topics import CHUNKS

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

# The ids of a job's rows lie side by side: each chunk is a range of the primary key.
COUNT = f"""
    SELECT c.nth, count(n.id),
        count(n.id) FILTER (WHERE n.state = '{State.CREATED}' AND n.attempt = 0)
    FROM unnest(%(jobs)s::uuid[], %(lows)s::uuid[], %(highs)s::uuid[])
        WITH ORDINALITY AS c(job_id, low, high, nth)
    LEFT JOIN LATERAL (SELECT * FROM notifications n
        WHERE n.id BETWEEN c.low AND c.high AND n.job_id = c.job_id) n ON true
    GROUP BY c.nth ORDER BY c.nth"""
SAVED = """
    UPDATE chunks SET saved_at = clock_timestamp() FROM
        unnest(%(uploads)s::uuid[], %(numbers)s::int[]) AS s(upload_id, number)
    WHERE chunks.upload_id = s.upload_id AND chunks.number = s.number AND saved_at IS NULL"""
ORDERED = """
    UPDATE chunks SET issued_at = clock_timestamp(), orders = orders + 1 FROM
        unnest(%(uploads)s::uuid[], %(numbers)s::int[]) AS o(upload_id, number)
    WHERE chunks.upload_id = o.upload_id AND chunks.number = o.number"""


@dataclass(frozen=True, slots=True)
class Place:
    """A chunk of a job, without what it holds."""

    job_id: UUID
    upload_id: UUID
    number: int
    first: int  # of its rows
    rows: int


@dataclass(frozen=True, slots=True)
class Stored:
    """How many of a chunk's rows are there, and how many of these wait for a first attempt."""

    there: int
    waiting: int


def count(cursor: extensions.cursor, places: Sequence[Place]) -> list[Stored]:
    """Count what is stored of each chunk."""
    if not places:
        return []
    bounds = [ids.of_rows(each.job_id, each.first, each.first + each.rows - 1) for each in places]
    jobs = [each.job_id for each in places]
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    cursor.execute(COUNT, {"jobs": jobs, "lows": lows, "highs": highs})
    return [Stored(there, waiting) for _, there, waiting in cursor]


def note_saved(cursor: extensions.cursor, places: Sequence[Place]) -> None:
    """Note that all rows of these chunks are there."""
    cursor.execute(SAVED, keys(places))


def note_ordered(cursor: extensions.cursor, places: Sequence[Place]) -> None:
    """Note that these chunks have their order now: after it is acknowledged, never before."""
    cursor.execute(ORDERED, keys(places))


def keys(places: Sequence[Place]) -> dict[str, object]:
    """Give what names chunks in SQL."""
    return {
        "uploads": [each.upload_id for each in places],
        "numbers": [each.number for each in places],
    }


def order(job_id: UUID, number: int) -> Outgoing:
    """Order a chunk to be turned into notifications. A second order is harmless."""
    record = ChunkOrder(job_id=job_id, number=number)
    # By chunk, so that all runners share a job.
    return Outgoing(CHUNKS.name, job_id.bytes + number.to_bytes(4), record.encode())
