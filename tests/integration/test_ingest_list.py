"""The list of a service's notifications, newest first, page by page, read from PostgreSQL."""

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
    """Store notifications and return their ids, newest first.

    The ids are derived as from an Idempotency-Key, so their order is not the order of acceptance.
    """
    engine = create_engine(migrate.engine_url(server.url))
    twin = PostgresTwin(engine)
    notifications = []
    for number in range(MANY):
        id = ids.derived_in(NOW, b"notification", number.to_bytes(2))
        # Two notifications share each moment. Of those two, the one with the greater id is newer.
        at = NOW + timedelta(seconds=number // 2)
        notifications.append(msgspec.structs.replace(notification(number), id=id, accepted_at=at))
    save(twin, *notifications)
    engine.dispose()
    notifications.sort(key=lambda each: (each.accepted_at, each.id), reverse=True)
    return [each.id for each in notifications]


@pytest.fixture
def reader(server: Server) -> Iterator[Reader]:
    reader = Reader(server.url_of(INGEST), 1)
    yield reader
    reader.close()


def chosen(older_than: UUID | None = None, service_id: UUID = SERVICE) -> ListFilter:
    return ListFilter(service_id, KeyType.NORMAL, older_than=older_than)


def page(reader: Reader, older_than: UUID | None = None) -> list[UUID]:
    return [each.id for each in asyncio.run(reader.page(chosen(older_than)))]


def test_pages_are_in_the_order_of_acceptance_and_miss_none(
    reader: Reader, made: list[UUID]
) -> None:
    assert made != sorted(made, reverse=True)
    listed = page(reader)
    assert listed == made[:PAGE_ROWS]
    while older := page(reader, listed[-1]):
        listed += older
    assert listed == made


def test_a_page_older_than_an_alias_is_the_page_older_than_its_winner(
    server: Server, reader: Reader, made: list[UUID]
) -> None:
    loser = uuid4()
    ask(server.url, "INSERT INTO aliases (id, winner) VALUES (%s, %s)", str(loser), str(made[60]))
    assert page(reader, loser) == page(reader, made[60]) == made[61 : 61 + PAGE_ROWS]


def test_a_page_older_than_another_callers_notification_is_empty(
    reader: Reader, made: list[UUID]
) -> None:
    assert page(reader, uuid4()) == []
    assert asyncio.run(reader.page(chosen(made[0], service_id=uuid4()))) == []


def test_a_page_is_read_from_its_index(server: Server, made: list[UUID]) -> None:
    ask(server.url, "ANALYZE notifications")
    where, values = conditions(chosen(made[60]))
    engine = create_engine(migrate.engine_url(server.url_of(INGEST)))
    with engine.connect() as connection:
        # For so few rows the planner would prefer a sort to the index.
        connection.exec_driver_sql("SET enable_sort = off")
        explain = text(f"EXPLAIN {PAGE_SQL.format(where=where)}")
        plan = "\n".join(row[0] for row in connection.execute(explain, values))
    engine.dispose()
    assert "Sort  (" not in plan, plan
    assert "Merge Append" in plan, plan
    assert "ROW(accepted_at, id) < ROW(" in plan, plan
