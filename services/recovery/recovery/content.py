"""Empties personal data after its service's retention: of notifications, and of jobs.

The row stays as a stub until its day is dropped, so that the log, read again, cannot bring its
content back. Only what is over is emptied, never a row that may still be sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from courant.directory.entries import RETENTION_DAYS, Directory
from courant.lifecycle import State, quoted
from courant.postgres.database import array
from courant.postgres.tables import JOB_WITH_CONTENT, WITH_CONTENT
from recovery.rows import FIRST_PLACE, Place
from recovery.store import PostgresRows, PostgresStore
from recovery.sweeps import Tools

# ruff: noqa: S608  (all SQL that is put together here is ours)

SERVICES_MAX = 50
"""Services that one run looks at. A service costs two statements, each on all days."""
CHUNKS_MAX = 1_000
"""Chunks that one run deletes. A chunk may have half a megabyte."""
PAST_ALL = datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1)
"""After every row of a service."""

NOW = "SELECT now()"
# With old statistics the planner expects few rows, and would read whole days and sort them: 200,000
# rows for each look. In the order of the index it reads no more than it returns.
BY_INDEX = "SET LOCAL enable_sort = off"
# The index holds only rows with their content, so that no number of emptied rows is looked at.
NEXT = """
    SELECT service_id, accepted_at FROM {table}
    WHERE {filled} AND (service_id, accepted_at, id) > (%(service)s, %(since)s, %(id)s)
    ORDER BY service_id, accepted_at, id LIMIT 1"""
# Rows that must stay may be among the oldest, as those of a paused job. So one run looks at some
# rows, and the next goes on after the last of them.
LOOK = """
    SELECT id, accepted_at, {over} FROM {table}
    WHERE {filled} AND service_id = %(service)s AND accepted_at < %(before)s
        AND (accepted_at, id) > (%(since)s, %(id)s)
    ORDER BY accepted_at, id LIMIT %(limit)s"""
MAY_BE_SENT = quoted([State.CREATED, State.CLAIMED])
SENT_OR_OVER = f"state NOT IN ({MAY_BE_SENT})"
EMPTY = f"""
    UPDATE notifications SET sealed = '', reference = NULL, recipient_hash = '', response = NULL
    WHERE id = ANY(%(ids)s::uuid[]) AND id = ANY(ARRAY(
        SELECT id FROM notifications WHERE id = ANY(%(ids)s::uuid[]) AND {SENT_OR_OVER}
        ORDER BY id FOR UPDATE SKIP LOCKED))"""
JOB_OVER = "finished_at IS NOT NULL"
# The name goes last: a job that has it is looked at again.
DELETE_CHUNKS = """
    DELETE FROM chunks WHERE ctid = ANY(ARRAY(
        SELECT c.ctid FROM chunks c JOIN jobs j USING (upload_id) WHERE j.id = ANY(%(ids)s::uuid[])
        LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED))"""
EMPTY_JOBS = """
    UPDATE jobs SET name = '' WHERE id = ANY(ARRAY(
        SELECT j.id FROM jobs j WHERE j.id = ANY(%(ids)s::uuid[])
            AND NOT EXISTS (SELECT FROM chunks c WHERE c.upload_id = j.upload_id)
        ORDER BY j.id FOR UPDATE SKIP LOCKED))"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A table whose rows keep content for a while; `empty` empties these ids, returns how many."""

    table: str
    filled: str
    over: str
    empty: Callable[[PostgresRows, list[UUID]], int]


def empty_notifications(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Empty notifications whose retention is over: content, reference, the provider's text."""
    return empty(store, tools, limit, NOTIFICATIONS)


def empty_jobs(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Empty jobs whose retention is over: delete their chunks, then the names of their files."""
    return empty(store, tools, limit, JOBS)


def empty(store: PostgresStore, tools: Tools, limit: int, kept: Kept) -> int:
    """Look at the next rows, `limit` at most, and empty those that are over; return how many."""
    if not tools.directory.is_read:  # a service that is not known yet may keep its content longer
        return 0
    with store.sweeping() as rows:
        place = tools.places.get(kept.table, FIRST_PLACE)
        ids, place = look(rows, tools.directory, kept, place, limit)
        emptied = kept.empty(rows, ids) if ids else 0
    tools.places[kept.table] = place
    return emptied


def look(
    rows: PostgresRows, directory: Directory, kept: Kept, place: Place, limit: int
) -> tuple[list[UUID], Place]:
    """Return the ids to empty among the next rows after a place, and the place to go on from."""
    rows.run(BY_INDEX)
    [(now,)] = rows.fetch(NOW)
    names = {"table": kept.table, "filled": kept.filled, "over": kept.over}
    ids: list[UUID] = []
    for _ in range(SERVICES_MAX):
        at = {"service": place.service_id, "since": place.since, "id": place.id}
        found = rows.fetch(NEXT.format(**names), **at)
        if not found:
            return ids, FIRST_PLACE
        [(service_id, oldest)] = found
        before = now - retention(directory, service_id)
        if service_id != place.service_id:
            place = Place(FIRST_PLACE.since, FIRST_PLACE.id, service_id)
        looked = []
        if oldest < before:
            at = {"service": service_id, "since": place.since, "id": place.id, "before": before}
            looked = rows.fetch(LOOK.format(**names), limit=limit, **at)
            ids += [id for id, _, is_over in looked if is_over]
        if len(looked) == limit:
            [id, accepted_at, _] = looked[-1]
            return ids, Place(accepted_at, id, service_id)
        limit -= len(looked)
        place = Place(*PAST_ALL, service_id)
    return ids, place


def retention(directory: Directory, service_id: UUID) -> timedelta:
    """Return how long a service's content is kept."""
    service = directory.services.get(service_id)
    return timedelta(days=service.retention_days if service else RETENTION_DAYS)


def longest_retention(directory: Directory) -> timedelta:
    """Return how long content is kept at most, by any service."""
    days = [service.retention_days for service in directory.services.copy().values()]
    return timedelta(days=max(days, default=RETENTION_DAYS))


def _empty_notifications(rows: PostgresRows, ids: list[UUID]) -> int:
    return rows.run(EMPTY, ids=array(ids))


def _empty_jobs(rows: PostgresRows, ids: list[UUID]) -> int:
    rows.run(DELETE_CHUNKS, ids=array(ids), limit=CHUNKS_MAX)
    return rows.run(EMPTY_JOBS, ids=array(ids))


NOTIFICATIONS = Kept("notifications", WITH_CONTENT, SENT_OR_OVER, _empty_notifications)
JOBS = Kept("jobs", JOB_WITH_CONTENT, JOB_OVER, _empty_jobs)
