"""The list of a service's jobs, newest first and page by page, read from a real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine

from courant import ids
from courant.contracts import KeyType
from courant.postgres import migrate
from courant_local.postgres import Server
from ingest.callers.auth import Caller
from ingest.jobs import store as jobs_store
from ingest.jobs.store import JobStore
from ingest.read.store import Reader
from support.ingest.stored_jobs import StoredJobs
from support.ingest.world import SERVICE, key, service
from support.roles import INGEST, server

__all__ = ["server"]
CALLER = Caller(service(), key(1))
BEGINS = datetime(2026, 5, 6, 12, tzinfo=UTC)
JOBS = 120


@pytest.fixture(scope="module")
def made(server: Server) -> list[UUID]:
    """Store jobs and return their ids, newest first.

    The ids are derived as from an Idempotency-Key, so their order is not the order of acceptance.
    """
    stored = StoredJobs(server.url)
    return [
        stored.job(
            rows=1,
            id=ids.derived_in(BEGINS, b"job", number.to_bytes(2)),
            # Two jobs share each moment. Of those two, the one with the greater id is newer.
            accepted_at=BEGINS + timedelta(seconds=number // 2),
        )
        for number in reversed(range(JOBS))
    ]


@pytest.fixture
def store(server: Server) -> Iterator[JobStore]:
    reader = Reader(server.url_of(INGEST), 1)
    yield JobStore(reader, reader)
    reader.close()


def page(store: JobStore, older_than: UUID | None = None) -> list[UUID]:
    return [each.id for each in asyncio.run(store.page(CALLER, older_than))]


def test_pages_list_jobs_in_the_order_of_acceptance_and_miss_none(
    store: JobStore, made: list[UUID]
) -> None:
    pairs = [made[first : first + 2] for first in range(0, JOBS, 2)]
    expected = [id for pair in pairs for id in sorted(pair, reverse=True)]
    assert expected != sorted(expected, reverse=True)
    listed = page(store)
    assert listed == expected[:50]
    while older := page(store, listed[-1]):
        listed += older
    assert listed == expected


def test_a_page_older_than_an_alias_is_the_page_older_than_its_winner(
    server: Server, store: JobStore, made: list[UUID]
) -> None:
    loser = uuid4()
    StoredJobs(server.url).execute(
        "INSERT INTO aliases (id, winner) VALUES (%s, %s)", loser, made[60]
    )
    assert page(store, loser) == page(store, made[60]) != []


@pytest.mark.usefixtures("made")
def test_a_page_older_than_another_callers_job_is_empty(server: Server, store: JobStore) -> None:
    stored = StoredJobs(server.url)
    for id in (
        uuid4(),
        stored.job(rows=1, service_id=uuid4()),
        stored.job(rows=1, key_type=KeyType.TEST),
    ):
        assert page(store, id) == []


def test_a_page_is_read_from_its_index(server: Server, made: list[UUID]) -> None:
    StoredJobs(server.url).execute("ANALYZE jobs")
    engine = create_engine(migrate.engine_url(server.url_of(INGEST)))
    asked = {"service_id": SERVICE, "key_type": "normal", "id": made[60]}
    with engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        explain = type(jobs_store.OLDER)(f"EXPLAIN {jobs_store.OLDER.text}")
        plan = "\n".join(row[0] for row in connection.execute(explain, asked))
    engine.dispose()
    assert "Sort" not in plan, plan
    scan = plan.split("Index Scan Backward using jobs_by_service on jobs j")[1].splitlines()[1]
    assert "Index Cond:" in scan, plan
    assert "ROW(accepted_at, id) < ROW(" in scan, plan
