"""A scenario in a real PostgreSQL, for tests of recovery: rows, marks and positions."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from courant import clock, contracts, ids
from courant.postgres.days import DAILY, MAKE_DAY
from courant.testing import builders
from courant.testing.builders import notification
from courant.testing.kafka import FakeProducer
from courant.testing.world import World
from courant.topics import Partition, family
from recovery.store import PostgresStore
from recovery.tasks import Task
from support import mistakes
from support.roles import acting

TABLES = ["notifications", "events", "calls", "positions", "marks", "holds"]
TABLES += ["idempotency", "aliases", "directory", "servers", "jobs", "chunks", "wishes"]
TABLES += ["receipts_waiting"]
TODAY = ids.day_at(clock.now())
DAY = TODAY - 4
"""The day of the rows' ids: so long ago that a row may be in any state."""


def id_of(number: int) -> UUID:
    return UUID(int=ids.first_of(DAY).int + number)


def number_of(id: UUID) -> int:
    return id.int - id_of(0).int


class Scenario:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.world = World()
        self.producer = FakeProducer(self.world.kafka)
        for table in TABLES:
            self.ask(f"DELETE FROM {table}")
        for table in DAILY:
            make_day(engine, table, DAY)
        self.connection = acting(engine, "courant_recovery").connect()
        self.store = PostgresStore(self.connection)
        with self.store.transaction() as cursor:  # the server is known, so that no hold stands
            cursor.execute("SELECT")
        self.store.lift(timedelta())
        self.ask("DELETE FROM holds")

    def ask(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def row(self, number: int, state: str = "created", **columns: str) -> None:
        """Insert a row; the value of each column is SQL, and `ago(n)` is n seconds ago."""
        fields = notification(number)
        values = {
            "id": f"'{id_of(number)}'",
            "service_id": f"'{fields.service_id}'",
            "key_id": f"'{fields.key_id}'",
            "key_type": "'normal'",
            "template_id": f"'{fields.template_id}'",
            "template_version": "3",
            "channel": "'email'",
            "lane": "'normal'",
            "recipient_hash": "''",
            "sealed": "''",
            "accepted_at": "now()",
            "state": f"'{state}'",
            **{name: ago(value) for name, value in columns.items()},
        }
        names, sql = ", ".join(values), ", ".join(values.values())
        self.ask(f"INSERT INTO notifications ({names}) VALUES ({sql})")

    def call(self, call: int, attempts: dict[int, int], at: str = "now()") -> None:
        sql = f"INSERT INTO calls (id, notification, attempt, at) VALUES (:id, :n, :a, {ago(at)})"
        for number, attempt in attempts.items():
            self.ask(sql, id=UUID(int=call), n=id_of(number), a=attempt)

    def mark(self, topic: str, seconds: float, *ends: int) -> None:
        """Insert a mark: so many seconds ago, the topic's partitions ended here."""
        partition = builders.partition(topic)
        sql = f"INSERT INTO marks VALUES ({ago(f'ago({seconds})')}, :id, :family, :topic, :ends)"
        self.ask(sql, id=partition.topic_id, family=family(topic), topic=topic, ends=list(ends))

    def fold_to(self, topic: str, *nexts: int) -> dict[Partition, int]:
        """Set up to where a topic is folded; return the same positions as a group's commits."""
        for number, next in enumerate(nexts):
            partition = builders.partition(topic, number)
            sql = """INSERT INTO positions VALUES (:id, :number, :next)
                ON CONFLICT (topic_id, partition) DO UPDATE SET next = excluded.next"""
            self.ask(sql, id=partition.topic_id, number=number, next=next)
        return {builders.partition(topic, number): next for number, next in enumerate(nexts)}

    def hold(self, seconds: float = 0, scope: str = "rebuild") -> None:
        at = ago(f"ago({seconds})")
        sql = f"INSERT INTO holds (scope, reason, raised_at) VALUES (:scope, '', {at})"
        self.ask(sql, scope=scope)

    def written(self) -> list[tuple[str, int, str]]:
        """Return every record that was written: topic, number, and the move if it is a decision."""
        records = []
        for partition, log in self.world.kafka.log.items():
            for record in log:
                move = ""
                if partition.topic == builders.DELIVERY:
                    decided = contracts.decode_delivery(record.value)
                    assert isinstance(decided, contracts.Decided)
                    move = f"{decided.move}/{decided.attempt}"
                records.append((partition.topic, number_of(UUID(bytes=record.key[:16])), move))
        return sorted(records)


def make_mistake(
    patch: pytest.MonkeyPatch,
    by_name: dict[str, Task],
    where: Sequence[Any],  # as mistakes.replace takes it
) -> None:
    """Put a mistake into the product, and have the table of tasks name the changed functions."""
    owner, name, right, wrong = where
    mistakes.replace(patch, owner, name, right, wrong)
    for task in list(by_name.values()):
        do = getattr(sys.modules[task.do.__module__], task.do.__name__)
        patch.setitem(by_name, task.name, replace(task, do=do))


def make_day(engine: Engine, table: str, day: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(MAKE_DAY, {"daily": table, "day": day})


def ago(value: str) -> str:
    """Return the SQL of `ago(n)`, or the value as it is."""
    if not value.startswith("ago("):
        return value
    return f"now() - interval '{value[4:-1]} s'"
