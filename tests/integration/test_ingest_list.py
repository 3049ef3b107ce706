"""The list of a service's notifications, newest first, page by page, read from PostgreSQL."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import create_engine, text

from courant import ids
from courant.contracts import KeyType
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.postgres import migrate
from courant.postgres.database import array
from courant.testing.builders import NOW, notification
from courant.topics import Channel
from courant_local.postgres import Server
from ingest.read import pages
from ingest.read.pages import LAST_LOOKED_AT, LOOK, PAGE_ROWS, ListFilter, conditions
from ingest.read.store import Reader
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
    return [each.id for each in asyncio.run(reader.page(chosen(older_than))).rows]


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
    assert asyncio.run(reader.page(chosen(made[0], service_id=uuid4()))) == pages.Page([], None)


def test_a_page_is_read_from_its_index(server: Server, made: list[UUID]) -> None:
    ask(server.url, "ANALYZE notifications")
    within, which, values = conditions(chosen(made[60]))
    engine = create_engine(migrate.engine_url(server.url_of(INGEST)))
    with engine.connect() as connection:
        # For so few rows the planner would prefer a sort to the index.
        connection.exec_driver_sql("SET enable_sort = off")
        look = LOOK.format(within=within, which=which)
        explained = [
            connection.execute(text(f"EXPLAIN {sql}"), {**values, "rows": PAGE_ROWS}).scalars()
            for sql in (look, LAST_LOOKED_AT.format(within=within))
        ]
        plans = ["\n".join(lines) for lines in explained]
    engine.dispose()
    for plan in plans:
        assert "Sort  (" not in plan, plan
        assert "Merge Append" in plan, plan
        assert "ROW(accepted_at, id) < ROW(" in plan, plan


@pytest.fixture
def sending(server: Server, made: list[UUID]) -> Iterator[list[UUID]]:
    """Two notifications far apart that are sending, among those that are not."""
    ids_ = [made[100], made[500]]
    change = "UPDATE notifications SET state = %s WHERE id = ANY(%s::uuid[])"
    ask(server.url, change, "sending", array(ids_))
    yield ids_
    ask(server.url, change, "created", array(ids_))


SENDING = ListFilter(SERVICE, KeyType.NORMAL, states=frozenset({(State.SENDING, Channel.EMAIL)}))


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "LAST_LOOKED_AT"):
        sql = getattr(pages, name)
        short = sql.replace(f"LIMIT {pages.LOOKS}", "LIMIT 20")
        monkeypatch.setattr(pages, name, short.replace(f"OFFSET {pages.LOOKS - 1}", "OFFSET 19"))


@pytest.mark.usefixtures("short_looks")
def test_a_page_is_filled_however_far_apart_its_rows_are(
    reader: Reader, sending: list[UUID]
) -> None:
    found = asyncio.run(reader.page(SENDING))
    assert [row.id for row in found.rows] == sending
    assert found.last == sending[-1]
    assert len(page(reader)) == PAGE_ROWS


@pytest.mark.usefixtures("short_looks")
def test_a_client_can_go_on_after_a_short_page(
    reader: Reader, sending: list[UUID], made: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FULL_SECONDS", 0.0)
    found = asyncio.run(reader.page(SENDING))
    assert [row.id for row in found.rows] == sending[:1]
    assert found.last in made[100:120]  # it does not search those again
    rest = asyncio.run(reader.page(replace(SENDING, older_than=found.last)))
    assert [row.id for row in rest.rows] == sending[1:]


@pytest.mark.usefixtures("short_looks")
def test_a_client_that_tries_again_goes_on_where_nothing_was_found(
    reader: Reader, sending: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "EMPTY_SECONDS", 0.0)
    monkeypatch.setattr(pages, "FULL_SECONDS", 0.0)
    tries = 0
    while True:
        try:
            found = asyncio.run(reader.page(SENDING))
            break
        except Unavailable:
            tries += 1
    assert tries == 100 // 20
    assert [row.id for row in found.rows] == sending[:1]


def test_lists_of_one_service_leave_readers_to_the_others() -> None:
    async def main() -> tuple[int, int]:
        most = busy = 0
        go_on = asyncio.Event()

        async def ask(_: object) -> Any:
            nonlocal most, busy
            busy += 1
            most = max(most, busy)
            await go_on.wait()
            busy -= 1
            return [], None

        lists = pages.Lists(ask, 2)
        own = [asyncio.create_task(lists.page(SENDING)) for _ in range(2 + pages.WAITS_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await lists.page(SENDING)
        before = most
        other = asyncio.create_task(lists.page(replace(SENDING, service_id=uuid4())))
        await asyncio.sleep(0)
        after = most
        go_on.set()
        await asyncio.gather(*own, other)
        assert not lists.asked
        assert not lists.turns
        return before, after

    assert asyncio.run(main()) == (2, 3)
