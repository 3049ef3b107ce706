"""The SQL on jobs and their chunks that several services share."""

from collections.abc import Sequence

from psycopg2 import extensions

from courant import ids
from courant.bulk import ChunkRef, StoredRows
from courant.contracts import Command
from courant.lifecycle import State

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

# The ids of a job's rows follow one another, so that each chunk is a range of the primary key. Each
# is counted in a query of its own: as a join, the planner read all rows of all days.
COUNT = f"""
    SELECT c.nth, n.there, n.waiting
    FROM unnest(%(jobs)s::uuid[], %(lows)s::uuid[], %(highs)s::uuid[])
        WITH ORDINALITY AS c(job_id, low, high, nth)
    CROSS JOIN LATERAL (
        SELECT count(*) AS there,
            count(*) FILTER (WHERE n.state = '{State.CREATED}' AND n.attempt = 0) AS waiting
        FROM notifications n
        WHERE n.id BETWEEN c.low AND c.high AND n.job_id = c.job_id) AS n
    ORDER BY c.nth"""
THESE = """
    FROM unnest(%(uploads)s::uuid[], %(numbers)s::int[]) AS p(upload_id, number)
    WHERE chunks.upload_id = p.upload_id AND chunks.number = p.number"""
SAVED = f"UPDATE chunks SET saved_at = clock_timestamp() {THESE} AND saved_at IS NULL"
SETTLED = f"UPDATE chunks SET settled_at = clock_timestamp() {THESE} AND settled_at IS NULL"
ORDERED = f"UPDATE chunks SET issued_at = clock_timestamp(), orders = orders + 1 {THESE}"


def count(cursor: extensions.cursor, chunks: Sequence[ChunkRef]) -> list[StoredRows]:
    """Count the stored rows of each chunk, and those that still wait for their first attempt."""
    if not chunks:
        return []
    bounds = [ids.of_rows(each.job_id, each.first, each.first + each.rows - 1) for each in chunks]
    jobs = [chunk.job_id for chunk in chunks]
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    cursor.execute(COUNT, {"jobs": jobs, "lows": lows, "highs": highs})
    return [StoredRows(stored, waiting) for _, stored, waiting in cursor]


def note_saved(cursor: extensions.cursor, chunks: Sequence[ChunkRef]) -> None:
    """Note that all rows of these chunks are stored."""
    _note(cursor, SAVED, chunks)


def note_settled(cursor: extensions.cursor, chunks: Sequence[ChunkRef]) -> None:
    """Note that most of these chunks' rows have left their lane."""
    _note(cursor, SETTLED, chunks)


def note_ordered(cursor: extensions.cursor, chunks: Sequence[ChunkRef]) -> None:
    """Note that these chunks are ordered; call this only after the order is acknowledged."""
    _note(cursor, ORDERED, chunks)


def _note(cursor: extensions.cursor, sql: str, chunks: Sequence[ChunkRef]) -> None:
    if chunks:
        uploads, numbers = [each.upload_id for each in chunks], [each.number for each in chunks]
        cursor.execute(sql, {"uploads": uploads, "numbers": numbers})


def sql_job_runs(job: str) -> str:
    """Return SQL that is true if the job with this id is neither paused nor cancelled."""
    return f"""NOT EXISTS (
        SELECT FROM wishes w WHERE w.job_id = {job} AND w.wish <> '{Command.RESUMED}')"""


def sql_unless_commanded(job: str, command: Command) -> str:
    """Return SQL that is true unless `command` is the last command to the job with this id."""
    return f"NOT EXISTS (SELECT FROM wishes w WHERE w.job_id = {job} AND w.wish = '{command}')"
