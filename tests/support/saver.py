"""The saver's store twice, the fake and the real one, with direct access to the tables of each."""

from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import Engine, text

from courant.contracts import Contract
from courant.idempotency import Holder
from courant.lifecycle import State
from courant.postgres import refolds
from courant.postgres.database import RECOGNISE
from courant.records import Batch, Record, sift
from courant.testing import builders
from courant.testing.builders import NOW, id_of, notification
from courant.testing.tables import FakeRow
from courant.testing.world import World
from courant.topics import INBOX, Positions
from saver import handle, rules
from saver.handle import Store
from saver.store import PostgresStore
from support.roles import acting


class Twin(Protocol):
    """A store, with direct access to its tables."""

    @property
    def store(self) -> Store: ...
    def put(
        self, number: int, state: State, attempt: int, receipt_at: datetime | None = None
    ) -> None: ...
    def mark(self, end: int) -> None: ...
    def delete(self, number: int) -> None: ...
    def set_back(self, starts: Positions) -> None: ...
    def rows(self) -> list[tuple[int, str, int, str | None]]: ...
    def ordered_before_their_time(self) -> list[int]: ...
    def waiting(self) -> list[tuple[str, str]]: ...
    def rest(self) -> tuple[Any, ...]: ...


class FakeTwin:
    def __init__(self) -> None:
        self.store = World().store

    def put(
        self, number: int, state: State, attempt: int, receipt_at: datetime | None = None
    ) -> None:
        row = FakeRow(notification(number), state, attempt, receipt_at=receipt_at)
        self.store.tables.rows[id_of(number)] = row

    def mark(self, end: int) -> None:
        marks = self.store.tables.marks
        ends = {builders.partition(builders.INBOX): end, builders.partition(builders.RECEIPTS): 0}
        marks[NOW + timedelta(seconds=len(marks))] = ends

    def delete(self, number: int) -> None:
        del self.store.tables.rows[id_of(number)]

    def set_back(self, starts: Positions) -> None:
        self.store.tables.set_back(starts, NOW)

    def rows(self) -> list[tuple[int, str, int, str | None]]:
        return [
            (builders.number_of(id), str(row.state), row.attempt, row.notification.reference)
            for id, row in sorted(self.store.tables.rows.items())
        ]

    def ordered_before_their_time(self) -> list[int]:
        rows = self.store.tables.rows.items()
        return [
            builders.number_of(id)
            for id, row in sorted(rows)
            if row.not_before and row.issued_at < row.not_before
        ]

    def rest(self) -> tuple[Any, ...]:
        tables = self.store.tables
        return (
            sorted((id, str(move), attempt, made) for move, id, attempt, made in tables.events),
            sorted((*entry, attempt) for entry, attempt in tables.calls.items()),
            sorted((each.topic_id, next) for each, next in tables.positions.items()),
            tables.held,
            len(tables.marks),
            sum(map(tables.counts_receipts, tables.marks)),
            sorted((service, key, each) for (service, key), each in tables.jobs.keys.items()),
            sorted(tables.jobs.aliases.items()),
        )

    def waiting(self) -> list[tuple[str, str]]:
        waiting = self.store.tables.waiting
        return [(sns_id, receipt.message_id) for sns_id, receipt in sorted(waiting.items())]


class PostgresTwin:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = PostgresStore(acting(engine, "courant_saver"), timedelta(seconds=30))
        self.ask("DELETE FROM notifications; DELETE FROM events; DELETE FROM calls")
        self.ask("DELETE FROM positions; DELETE FROM holds; DELETE FROM marks")
        self.ask("DELETE FROM receipts_waiting")
        self.ask("DELETE FROM refolds")
        self.ask("DELETE FROM idempotency; DELETE FROM aliases; DELETE FROM servers")
        self.ask(RECOGNISE)

    def ask(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def put(
        self, number: int, state: State, attempt: int, receipt_at: datetime | None = None
    ) -> None:
        save(self, notification(number))
        sql = """UPDATE notifications
            SET state = :state, attempt = :attempt, receipt_at = :receipt_at WHERE id = :id"""
        self.ask(sql, state=state, attempt=attempt, receipt_at=receipt_at, id=id_of(number))

    def mark(self, end: int) -> None:
        marked = [builders.partition(topic) for topic in INBOX.names()]
        self.ask(
            """INSERT INTO marks SELECT now(), id, 'inbox', topic, ARRAY[stop]
            FROM unnest(:ids, cast(:topics AS text[]), cast(:stops AS bigint[]))
                AS each (id, topic, stop)""",
            ids=[each.topic_id for each in marked],
            topics=[each.topic for each in marked],
            stops=[end if each.topic == builders.INBOX else 0 for each in marked],
        )
        topic, topic_id, _ = builders.partition(builders.RECEIPTS)
        sql = "INSERT INTO marks VALUES (now(), :id, 'receipts', :topic, ARRAY[0])"
        self.ask(sql, id=topic_id, topic=topic)

    def delete(self, number: int) -> None:
        self.ask("DELETE FROM notifications WHERE id = :id", id=id_of(number))

    def set_back(self, starts: Positions) -> None:
        with self.engine.begin() as connection:
            refolds.set_back(connection, starts, "restore")

    def rows(self) -> list[tuple[int, str, int, str | None]]:
        rows = self.ask("SELECT id, state, attempt, reference FROM notifications ORDER BY id")
        return [(builders.number_of(id), *others) for id, *others in rows]

    def ordered_before_their_time(self) -> list[int]:
        sql = "SELECT id FROM notifications WHERE issued_at < not_before ORDER BY id"
        return [builders.number_of(id) for (id,) in self.ask(sql)]

    def rest(self) -> tuple[Any, ...]:
        return (
            self.ask("SELECT id, move, attempt, made FROM events ORDER BY 1, 2, 3, 4"),
            self.ask("SELECT id, notification, attempt FROM calls ORDER BY 1, 2"),
            self.ask("SELECT topic_id, next FROM positions ORDER BY 1"),
            bool(self.ask("SELECT FROM holds WHERE stands")),
            len(self.ask("SELECT DISTINCT at FROM marks WHERE family = 'inbox'")),
            len(self.ask("SELECT FROM marks WHERE family = 'receipts'")),
            keys_of(self.ask("SELECT * FROM idempotency ORDER BY 1, 2")),
            self.ask("SELECT id, winner FROM aliases ORDER BY 1"),
        )

    def waiting(self) -> list[tuple[str, str]]:
        return self.ask("SELECT sns_id, message_id FROM receipts_waiting ORDER BY 1")


def keys_of(rows: list[Any]) -> list[tuple[UUID, bytes, list[Holder]]]:
    """Return rows of `idempotency` as the fake has them: each key with its holders."""
    return [
        (
            service,
            bytes(key),
            [*msgspec.convert(earlier, list[Holder]), Holder(id, bytes(body), at, last)],
        )
        for service, key, id, body, at, last, earlier in rows
    ]


def batch(*contracts: Contract | Record, offset: int = 0) -> Batch[Any]:
    read = {
        builders.INBOX: rules.read_inbox,
        builders.DELIVERY: rules.read_delivery,
        builders.RECEIPTS: rules.read_receipt,
    }
    polled = [
        contract if isinstance(contract, Record) else builders.record(contract, offset + n)
        for n, contract in enumerate(contracts)
    ]
    return sift(polled, lambda record: read[record.partition.topic](record))


def save(twin: Twin, *contracts: Contract, offset: int = 0) -> list[Any]:
    return [*handle.save(twin.store, batch(*contracts, offset=offset))]


def settle(twin: Twin, *contracts: Contract | Record, offset: int = 0) -> list[Any]:
    return [*handle.settle(twin.store, batch(*contracts, offset=offset))]
