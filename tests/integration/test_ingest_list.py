"""The list of a service's notifications, newest first, page by page, from a real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import create_engine, text

from courant import ids
from courant.contracts import KeyType
from courant.postgres import migrate
from courant.testing.builders import NOW, notification
from courant_local.postgres import Server
from ingest.read.store import PAGE_ROWS, PAGE_SQL, ListFilter, Reader, conditions
from support.roles import INGEST, ask, server
from support.saver import PostgresTwin, save

__all__ = ["server"]
MANY = 2 * PAGE_ROWS + 20
SERVICE = notification(1).service_id


@pytest.fixture(scope="module")
def made(server: Server) -> list[UUID]:
    """Notifications, the newest first. An Idempotency-Key gives an id any moment of its day."""
    engine = create_engine(migrate.engine_url(server.url))
    twin = PostgresTwin(engine)
    found = []
    for number in range(MANY):
        id = ids.derived_in(NOW, b"notification", number.to_bytes(2))
        # Two at a time come at one moment: then the greater id counts as newer.
        at = NOW + timedelta(seconds=number // 2)
        found.append(msgspec.structs.replace(notification(number), id=id, accepted_at=at))
    save(twin, *found)
    engine.dispose()
    found.sort(key=lambda each: (each.accepted_at, each.id), reverse=True)
    return [each.id for each in found]


@pytest.fixture
def reader(server: Server) -> Iterator[Reader]:
    made = Reader(server.url_of(INGEST), 1)
    yield made
    made.close()


def chosen(older_than: UUID | None = None, service_id: UUID = SERVICE) -> ListFilter:
    return ListFilter(service_id, KeyType.NORMAL, older_than=older_than)


def page(reader: Reader, older_than: UUID | None = None) -> list[UUID]:
    return [each.id for each in asyncio.run(reader.page(chosen(older_than)))]


def test_pages_are_in_the_order_of_acceptance_and_miss_none(
    reader: Reader, made: list[UUID]
) -> None:
    assert made != sorted(made, reverse=True)
    found = page(reader)
    assert found == made[:PAGE_ROWS]
    while older := page(reader, found[-1]):
        found += older
    assert found == made


def test_an_alias_stands_where_its_winner_does(
    server: Server, reader: Reader, made: list[UUID]
) -> None:
    loser = uuid4()
    ask(server.url, "INSERT INTO aliases (id, winner) VALUES (%s, %s)", str(loser), str(made[60]))
    assert page(reader, loser) == page(reader, made[60]) == made[61 : 61 + PAGE_ROWS]


def test_nothing_is_older_than_what_is_not_the_callers(reader: Reader, made: list[UUID]) -> None:
    assert page(reader, uuid4()) == []
    assert asyncio.run(reader.page(chosen(made[0], service_id=uuid4()))) == []


def test_a_page_is_read_from_its_index(server: Server, made: list[UUID]) -> None:
    ask(server.url, "ANALYZE notifications")
    where, values = conditions(chosen(made[60]))
    engine = create_engine(migrate.engine_url(server.url_of(INGEST)))
    with engine.connect() as connection:
        connection.exec_driver_sql("SET enable_sort = off")  # so few are sorted sooner
        explain = text(f"EXPLAIN {PAGE_SQL.format(where=where)}")
        plan = "\n".join(row[0] for row in connection.execute(explain, values))
    engine.dispose()
    assert "Sort  (" not in plan, plan
    assert "Merge Append" in plan, plan
    assert "ROW(accepted_at, id) < ROW(" in plan, plan
