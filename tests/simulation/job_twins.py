"""The stores of jobs twice, fake and real, with direct access to the tables of each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import Engine, text

from courant import ids
from courant.bulk import ChunkRef
from courant.contracts import Notification
from courant.lifecycle import State
from courant.postgres.database import RECOGNISE
from courant.postgres.days import DAILY, MAKE_DAY
from courant.testing.builders import NOW, id_of, notification
from courant.testing.tables import FakeRow
from courant.testing.world import World
from courant.topics import Lane
from job_runner.dispatch import Store as Rounds
from job_runner.dispatch_store import PostgresRounds
from job_runner.handle import Store
from job_runner.store import PostgresStore
from recovery.rows import OverdueRow
from recovery.store import PostgresStore as Recovery
from simulation.job_recovery import JobRecoveryRows
from simulation.job_stores import FakeJobStore, FakeRounds
from support.roles import acting
from support.saver import keys_of

FAR = NOW + timedelta(days=9_999)
TABLES = ["notifications", "events", "positions", "marks", "holds", "servers"]
TABLES += ["idempotency", "aliases", "jobs", "chunks", "wishes"]


class Sweeps(Protocol):
    """The methods of recovery's rows that concern jobs."""

    def incomplete(self, before: Any, limit: int) -> list[ChunkRef]: ...
    def ordered(self, chunks: Sequence[ChunkRef]) -> None: ...
    def cancelled(self, delivery: Any, limit: int) -> list[OverdueRow]: ...


class Twin(Protocol):
    """The stores, with direct access to their tables."""

    @property
    def store(self) -> Store: ...
    @property
    def rounds(self) -> Rounds: ...
    def sweeping(self) -> Any: ...
    def put(self, job: UUID, row: int, state: State, attempt: int) -> None: ...
    def hold(self, stands: bool) -> None: ...
    def rest(self) -> object: ...


def row_of(job: UUID, row: int) -> Notification:
    return msgspec.structs.replace(
        notification(0), id=ids.of_row(job, row), lane=Lane.BULK, job_id=job, job_row=row
    )


class FakeJobsTwin:
    def __init__(self) -> None:
        self.world = World()
        self.store, self.rounds = FakeJobStore(self.world.store), FakeRounds(self.world.store)

    @contextmanager
    def sweeping(self) -> Iterator[Sweeps]:
        self.world.clock += 1
        with self.world.store.transaction() as tables:
            yield JobRecoveryRows(tables, self.world.now())

    def put(self, job: UUID, row: int, state: State, attempt: int) -> None:
        made = row_of(job, row)
        self.world.store.tables.rows[made.id] = FakeRow(made, state, attempt)

    def hold(self, stands: bool) -> None:
        self.world.store.tables.jobs.held = stands

    def rest(self) -> object:
        tables = self.world.store.tables
        jobs = tables.jobs
        return (
            sorted(
                (id, job.seal.upload_id, bool(job.started_at), bool(job.finished_at))
                for id, job in jobs.jobs.items()
            ),
            sorted(
                (*at, row.orders, bool(row.issued_at), bool(row.saved_at), bool(row.settled_at))
                for at, row in jobs.chunks.items()
            ),
            sorted((id, str(each.command)) for id, each in jobs.commands.items()),
            sorted((service, key, holders) for (service, key), holders in jobs.keys.items()),
            sorted(jobs.aliases.items()),
            sorted(tables.positions.values()),
            jobs.held,
        )


class PostgresJobsTwin:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        ours = acting(engine, "courant_job_runner")
        self.store, self.rounds = PostgresStore(ours), PostgresRounds(ours)
        with engine.begin() as connection:
            for table in TABLES:
                connection.exec_driver_sql(f"DELETE FROM {table}")
            connection.exec_driver_sql(RECOGNISE)
            for daily in DAILY:
                day = {"daily": daily, "day": ids.day_of(id_of(0))}
                connection.exec_driver_sql(MAKE_DAY, day)

    def ask(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    @contextmanager
    def sweeping(self) -> Iterator[Sweeps]:
        with (
            acting(self.engine, "courant_recovery").connect() as connection,
            Recovery(connection).sweeping() as rows,
        ):
            yield rows

    def put(self, job: UUID, row: int, state: State, attempt: int) -> None:
        made = row_of(job, row)
        names = "id service_id key_id key_type template_id template_version channel lane job_id "
        names += "job_row recipient_hash sealed accepted_at"
        columns = names.split()
        values = {name: getattr(made, name) for name in columns}
        self.ask(
            f"INSERT INTO notifications ({', '.join(columns)}, state, attempt) VALUES "
            f"({', '.join(f':{name}' for name in columns)}, :state, :attempt) "
            "ON CONFLICT (id) DO UPDATE SET state = :state, attempt = :attempt",
            state=state,
            attempt=attempt,
            **values,
        )

    def hold(self, stands: bool) -> None:
        self.ask(
            "INSERT INTO holds (scope, reason, stands) VALUES ('jobs', '', :stands) "
            "ON CONFLICT (scope) DO UPDATE SET stands = :stands",
            stands=stands,
        )

    def rest(self) -> object:
        keys = self.ask("SELECT * FROM idempotency ORDER BY 1, 2")
        return (
            self.ask(
                "SELECT id, upload_id, started_at IS NOT NULL, finished_at IS NOT NULL "
                "FROM jobs ORDER BY id"
            ),
            self.ask(
                "SELECT upload_id, number, orders, issued_at IS NOT NULL, saved_at IS NOT NULL, "
                "settled_at IS NOT NULL FROM chunks ORDER BY 1, 2"
            ),
            self.ask("SELECT job_id, wish FROM wishes ORDER BY 1"),
            keys_of(keys),
            self.ask("SELECT id, winner FROM aliases ORDER BY 1"),
            sorted(next for (next,) in self.ask("SELECT next FROM positions")),
            bool(self.ask("SELECT FROM holds WHERE scope = 'jobs' AND stands")),
        )
