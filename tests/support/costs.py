"""How many rows a statement's plan looks at, and a database of days that are full of final rows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from uuid import UUID

from psycopg2 import extensions
from sqlalchemy import Engine, create_engine, event, text

from courant import ids
from courant.postgres.database import RECOGNISE
from courant.postgres.days import DAILY
from courant.testing import builders
from courant.topics import RECEIPTS, family
from recovery import rules
from support.recovery import TODAY, make_day

PAUSED, RUNNING = UUID(int=71), UUID(int=72)
FINAL_DAYS = 21
EMPTIED = """notifications, events, calls, positions, marks, holds, idempotency, aliases, servers,
    jobs, chunks, wishes"""
COUNTED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a plan's node and all nodes below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def looked_at(node: Mapping[str, Any]) -> float:
    """Count the rows that a node returned or removed, and the ids that it looked up, in all loops.

    The ids count because each index scan with a list of ids sorts that list first.
    """
    removed = sum(count for key, count in node.items() if key.startswith("Rows Removed"))
    looked_up = node.get("Index Cond", "").count(",")
    total: float = (node["Actual Rows"] + removed + looked_up) * node["Actual Loops"]
    return total


@dataclass
class Cost:
    """The most that one statement cost in any of its runs."""

    rows: float = 0
    seconds: float = 0


@dataclass
class Costs:
    """What each statement cost that ran on a counted engine.

    `names` has the names of statements by their text, or a part of it.
    """

    names: Mapping[str, str]
    by_statement: dict[str, Cost] = field(default_factory=dict)

    def note(self, sql: str, plan: Mapping[str, Any], seconds: float) -> None:
        # The longest text, because some of the modules' texts are parts of others.
        _, name = max((len(part), name) for part, name in self.names.items() if part in sql)
        cost = self.by_statement.setdefault(name, Cost())
        cost.rows = max(cost.rows, sum(map(looked_at, nodes(plan))))
        cost.seconds = max(cost.seconds, seconds)


def names_of(*modules: ModuleType) -> dict[str, str]:
    """Return the names of the modules' texts, by the text."""
    return {
        sql.strip(): f"{module.__name__.split('.')[0]}.{name}"
        for module in modules
        for name, sql in vars(module).items()
        if isinstance(sql, str) and name.isupper() and sql.lstrip().startswith(COUNTED)
    }


@contextmanager
def counted(engine: Engine, role: str, costs: Costs) -> Iterator[Engine]:
    """Yield an engine that connects as this role and notes what each of its statements costs."""

    class Counting(extensions.cursor):
        def execute(self, sql: Any, values: Any = None) -> None:
            if sql.lstrip().startswith(COUNTED):
                # Explained first and undone, so that the statement finds what it would have found.
                super().execute("SAVEPOINT counted")
                began = time.perf_counter()
                super().execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", values)
                seconds = time.perf_counter() - began
                [(explained,)] = self.fetchall()
                super().execute("ROLLBACK TO counted")
                costs.note(sql, explained[0]["Plan"], seconds)
            super().execute(sql, values)

    def count(connection: Any, _: object) -> None:
        connection.cursor_factory = Counting

    counting = create_engine(engine.url.set(username=role))
    event.listen(counting, "connect", count)
    yield counting
    counting.dispose()


def fill(engine: Engine, final: int, waiting: int) -> None:
    """Store `final` rows of past days and `waiting` ones, and all that comes with them.

    A quarter of what waits is of a job that was paused, long ago, and a quarter of one that runs.
    """
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {EMPTIED}"))
        connection.exec_driver_sql(RECOGNISE)
    for day in range(TODAY - FINAL_DAYS, TODAY + 1):
        for table in DAILY:
            make_day(engine, table, day)
    some = {
        "delivered": final // FINAL_DAYS,
        "permanent-failure": final // FINAL_DAYS // 50,
    }
    for days_ago in range(FINAL_DAYS, 0, -1):
        first = 0
        for state, rows in some.items():
            at = f"interval '{days_ago} d'"
            put(engine, TODAY - days_ago, first, rows, state, issued=at, accepted=at)
            first += rows
    quarter = waiting // 4
    put(engine, TODAY, 0, quarter, issued="interval '2 h'")
    put(engine, TODAY, quarter, quarter, waits_for="now() + interval '1 h'")
    for number, job, hours in ((2, PAUSED, 80), (3, RUNNING, 1)):
        at = f"interval '{hours} h'"
        put(engine, TODAY, number * quarter, quarter, issued=at, accepted=at, job=job)
    for number, state in enumerate(("claimed", "sending"), 1):
        at = "interval '80 h'"
        put(engine, TODAY, 10_000_000 * number, 200, state, issued=at, accepted=at, attempt=1)
    with engine.begin() as connection:
        for sql in BESIDE:
            connection.execute(text(sql), {"paused": PAUSED, "running": RUNNING})
        for topic in rules.MARKED:
            id = builders.partition(topic).topic_id
            growing = "extract(epoch FROM at)" if topic == RECEIPTS.name else "0"
            values = {"id": id, "family": family(topic), "topic": topic}
            connection.execute(text(MARKS.format(growing=growing)), values)
            sql = "INSERT INTO positions SELECT :id, n, 4e9 FROM generate_series(0, 23) n"
            connection.execute(text(sql), {"id": id})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def put(
    engine: Engine, day: int, first: int, rows: int, state: str = "created", *,
    issued: str = "interval '0'", accepted: str = "interval '2 h'", job: UUID | None = None,
    waits_for: str = "NULL", attempt: int = 0,
) -> None:  # fmt: skip
    """Insert rows; `issued` and `accepted` are SQL of how long ago."""
    fields = builders.notification(0)
    lane = "bulk" if job else "normal"
    sql = f"""
        INSERT INTO notifications (id, service_id, key_id, key_type, template_id, template_version,
            channel, lane, job_id, recipient_hash, sealed, accepted_at, not_before, state, state_at,
            lease_until, issued_at, attempt)
        SELECT (:base || lpad(to_hex(n), 12, '0'))::text::uuid, :service, :service, 'normal',
            :template, 3, 'email', '{lane}', :job, '', sha256('1'), now() - {accepted}, {waits_for},
            :state, now() - {issued}, now() - {issued}, now() - {issued} + n * interval '1 us',
            :attempt
        FROM generate_series(:first + 1, :first + :rows) n"""
    values = {"base": ids.first_of(day).hex[:20], "service": fields.service_id, "job": job}
    values |= {"template": fields.template_id, "state": state, "attempt": attempt}
    with engine.begin() as connection:
        connection.execute(text(sql), {**values, "first": first, "rows": rows})


JOBS = """
    INSERT INTO jobs (id, upload_id, chunks, rows, digest, service_id, key_id, key_type,
        template_id, template_version, channel, name, accepted_at, at, started_at, finished_at)
    SELECT md5('j' || n)::uuid, md5('u' || n)::uuid, 1, 1, '', md5('s' || n % 50)::uuid,
        md5('k')::uuid, 'normal', md5('t')::uuid, 1, 'email', '', {at}, {at}, {at}, {finished}
    FROM generate_series({first}, {last}) n"""
CHUNKS = """
    INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed, at, issued_at, orders,
        saved_at, settled_at)
    SELECT md5('u' || n)::uuid, 0, 1, 1, '', '', {at}, {at}, 1, {done}, {done}
    FROM generate_series({first}, {last}) n"""
OLD = "now() - n * interval '20 s'"
BESIDE: Sequence[str] = (
    """INSERT INTO wishes (job_id, wish, wished_at, at)
        SELECT :paused, 'paused', now() - interval '80 h', now()""",
    """INSERT INTO wishes (job_id, wish, wished_at, at)
        SELECT md5('w' || n)::uuid, 'cancelled', now(), now() - n * interval '1 s'
        FROM generate_series(1, 2000) n""",
    JOBS.format(first=1, last=20_000, at=OLD, finished=OLD),
    CHUNKS.format(first=1, last=20_000, at=OLD, done=OLD),
    JOBS.format(first=20_001, last=20_050, at="now() - interval '1 min'", finished="NULL"),
    CHUNKS.format(first=20_001, last=20_050, at="now() - interval '1 min'", done="NULL"),
    """INSERT INTO idempotency (service_id, key_hash, id, body_hash, accepted_at)
        SELECT md5(n::text)::uuid, '', md5(n::text)::uuid, '',
        now() - n * interval '8 s' FROM generate_series(1, 20000) n""",
    """INSERT INTO aliases (id, winner, at)
        SELECT md5(n::text)::uuid, md5(n::text)::uuid,
        now() - n * interval '60 s' FROM generate_series(1, 20000) n""",
    """INSERT INTO calls (id, notification, attempt, at)
        SELECT md5((n % 2)::text)::uuid, n.id, n.attempt, now() - interval '79 h'
        FROM (SELECT *, row_number() OVER () AS n FROM notifications WHERE state = 'claimed') n
        WHERE n.n % 2 = 0""",
)
MARKS = """
    INSERT INTO marks (at, topic_id, family, topic, ends)
    SELECT DISTINCT at, cast(:id AS uuid), :family, :topic,
        array_fill(0::bigint, ARRAY[23]) || {growing}::bigint
    FROM (
        SELECT now() - n * interval '1 s' AS at FROM generate_series(1, 120) n UNION ALL
        SELECT now() - n * interval '5 s' FROM generate_series(24, 720) n UNION ALL
        SELECT now() - n * interval '1 min' FROM generate_series(60, 1440) n UNION ALL
        SELECT now() - n * interval '15 min' FROM generate_series(96, 1344) n) AS times"""
