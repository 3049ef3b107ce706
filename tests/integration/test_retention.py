"""Content is emptied once its service's retention is over, on a real PostgreSQL."""

# ruff: noqa: E501  (the table of mistakes is one)

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import Engine, text

from courant.contracts import Chunk, KeyType
from courant.directory.entries import Directory, Service
from courant.errors import Unavailable
from courant.lifecycle import Move, Report, State
from courant.testing.builders import notification
from ingest.read import pages
from integration.test_backlog import looked_at, nodes
from job_runner import store as runner_store
from recovery import content, store, tasks
from recovery.rows import Place
from recovery.store import PostgresRows
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from saver import store as saver_store
from support.recovery import TODAY, Scenario, ago, id_of, make_day, make_mistake
from support.roles import acting

DAY = 86_400
BY_NAME = {task.name: task for task in TASKS}
SHORT, USUAL, LONG, UNKNOWN = (UUID(int=number) for number in range(1, 5))
UPLOAD, JOB = UUID(int=50), id_of(5_000)
FILLED = {"sealed": "'x'", "reference": "'ana'", "recipient_hash": "'x'", "response": "'ana@b.ca'"}
STUB = (b"", None, b"", None)


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def services() -> Directory:
    directory = Directory()
    for id, days in ((SHORT, 3), (USUAL, 7), (LONG, 90)):
        directory.put(Service(id=id, name="n", retention_days=days))
    directory.is_read = True
    return directory


def run(
    scenario: Scenario,
    name: str = "content",
    limit: int | None = None,
    places: dict[str, Place] | None = None,
    directory: Directory | None = None,
) -> int:
    known = services() if directory is None else directory
    tools = Tools(scenario.producer, known, {}, timedelta(), {} if places is None else places)
    task = BY_NAME[name]
    return tasks.run(replace(task, limit=limit or task.limit), scenario.store, tools)


def put(
    scenario: Scenario, number: int, days: float, state: str = "delivered", service: UUID = USUAL
) -> None:
    """Insert a row with its content that was accepted so many days ago."""
    at = f"ago({days * DAY:.0f})"
    scenario.row(number, state, accepted_at=at, service_id=f"'{service}'", **FILLED)


def kept(scenario: Scenario) -> list[int]:
    """Return the rows that have their content; each of the others must be empty."""
    columns = "id, sealed, reference, recipient_hash, response"
    rows = scenario.ask(f"SELECT {columns} FROM notifications ORDER BY id")
    for _, sealed, reference, hash_, response in rows:
        values = (bytes(sealed), reference, bytes(hash_), response)
        assert values in {STUB, (b"x", "ana", b"x", "ana@b.ca")}
    return [id.int - id_of(0).int for id, sealed, *_ in rows if bytes(sealed)]


def test_content_is_emptied_after_the_retention_of_its_service(scenario: Scenario) -> None:
    minute = 1 / 1440
    ages = {SHORT: 3, USUAL: 7, LONG: 90, UNKNOWN: 7}
    for number, (service, days) in enumerate(ages.items()):
        put(scenario, 10 * number, days - minute, service=service)
        put(scenario, 10 * number + 1, days + minute, service=service)
    assert run(scenario) == 4
    assert kept(scenario) == [0, 10, 20, 30]
    assert run(scenario) == 0
    assert len(scenario.ask("SELECT FROM notifications WHERE state = 'delivered'")) == 8


@pytest.mark.parametrize("state", State)
def test_what_may_still_be_sent_keeps_its_content(scenario: Scenario, state: State) -> None:
    put(scenario, 1, 30, state)
    run(scenario)
    assert kept(scenario) == ([1] if state in {"created", "claimed"} else [])


def test_rows_that_have_to_stay_hold_back_no_others(scenario: Scenario) -> None:
    for number in range(6):
        put(scenario, number, 30, "created")
    put(scenario, 6, 20)
    put(scenario, 7, 20, service=LONG)
    put(scenario, 8, 20, service=SHORT)
    places: dict[str, Place] = {}
    emptied = [run(scenario, limit=2, places=places) for _ in range(6)]
    assert kept(scenario) == [0, 1, 2, 3, 4, 5, 7]
    assert max(emptied) <= 2
    put(scenario, 9, 20)
    for _ in range(6):  # it begins again from the first
        run(scenario, limit=2, places=places)
    assert 9 not in kept(scenario)


def test_one_run_empties_no_more_than_its_limit(scenario: Scenario) -> None:
    for number in range(5):
        put(scenario, number, 8)
    places: dict[str, Place] = {}
    assert [run(scenario, limit=2, places=places) for _ in range(3)] == [2, 2, 1]
    assert kept(scenario) == []


def test_a_locked_row_is_left_for_a_later_run(scenario: Scenario) -> None:
    put(scenario, 1, 8)
    put(scenario, 2, 8)
    with scenario.engine.begin() as other:
        other.execute(text("SELECT FROM notifications WHERE id = :id FOR UPDATE"), {"id": id_of(1)})
        assert run(scenario) == 1
    assert kept(scenario) == [1]
    assert run(scenario) == 1


def test_a_row_that_is_ordered_again_meanwhile_keeps_its_content(scenario: Scenario) -> None:
    put(scenario, 1, 8, "created")
    with scenario.store.sweeping() as rows:
        assert content.NOTIFICATIONS.empty(rows, [id_of(1)]) == 0
    assert kept(scenario) == [1]


def test_while_the_directory_is_not_read_nothing_is_emptied_or_dropped(scenario: Scenario) -> None:
    put(scenario, 1, 400)
    make_day(scenario.engine, "events", TODAY - 200)
    for name in ("content", "content-jobs", "days-dropped"):
        assert run(scenario, name, directory=Directory()) == 0
    scenario.ask(f"DROP TABLE events_{TODAY - 200}")


def test_days_are_dropped_after_the_longest_retention_of_a_service(scenario: Scenario) -> None:
    for day in (TODAY - 105, TODAY - 104):
        make_day(scenario.engine, "events", day)
    run(scenario, "days-dropped")
    there = scenario.ask("SELECT relname FROM pg_class WHERE relname ~ '^events_[0-9]+$'")
    assert (f"events_{TODAY - 104}",) in there
    assert (f"events_{TODAY - 105}",) not in there
    scenario.ask(f"DROP TABLE events_{TODAY - 104}")


# the log, read again


def saver(scenario: Scenario) -> saver_store.PostgresStore:
    return saver_store.PostgresStore(
        acting(scenario.engine, "courant_saver"), timedelta(seconds=30)
    )


def read_again(scenario: Scenario, *numbers: int, days: int) -> None:
    """Save notifications as the saver does when it reads their records again."""
    [(at,)] = scenario.ask(f"SELECT {ago(f'ago({days * DAY})')}")
    with saver(scenario).fold({}) as fold:
        fold.save(
            [
                msgspec.structs.replace(
                    notification(number, "ana"),
                    id=id_of(number),
                    service_id=USUAL,
                    sealed=b"x",
                    recipient_hash=b"x",
                    accepted_at=at,
                )
                for number in numbers
            ]
        )


def report(scenario: Scenario, number: int, move: Move) -> None:
    with saver(scenario).fold({}) as fold:
        fold.settle([[Report(id_of(number), 1, move, response="ana@b.ca")]], [], [])


def test_a_record_that_is_read_again_brings_no_content_back(scenario: Scenario) -> None:
    put(scenario, 1, 8)
    run(scenario)
    read_again(scenario, 1, 2, days=8)  # the row of the second was lost
    [(_, *stub), (_, *back)] = scenario.ask(
        "SELECT id, sealed, reference, state FROM notifications ORDER BY id"
    )
    assert (bytes(stub[0]), *stub[1:]) == (b"", None, "delivered")
    assert (bytes(back[0]), *back[1:]) == (b"x", "ana", "created")
    run(scenario)
    assert len(scenario.ask("SELECT FROM notifications WHERE sealed <> ''")) == 1  # may be sent
    for move in (Move.SENT, Move.DELIVERED):  # `delivery` and `receipts` are read again too
        report(scenario, 2, move)
    run(scenario)
    assert kept(scenario) == []


def test_a_late_receipt_brings_no_words_of_the_provider_back(scenario: Scenario) -> None:
    put(scenario, 1, 8, "sending")
    run(scenario)
    report(scenario, 1, Move.BOUNCED)
    [(state, response)] = scenario.ask("SELECT state, response FROM notifications")
    assert (state, response) == ("permanent-failure", None)


# jobs


def put_job(
    scenario: Scenario, days: float, id: UUID = JOB, upload: UUID = UPLOAD, over: str = "now()"
) -> None:
    at = ago(f"ago({days * DAY:.0f})")
    scenario.ask(
        f"""INSERT INTO jobs (id, upload_id, chunks, rows, digest, service_id, key_id, key_type,
            template_id, template_version, channel, name, accepted_at, started_at, finished_at)
        VALUES (:id, :upload, 3, 6, '', :one, :one, 'normal', :one, 1, 'email', 'x',
            {at}, {at}, {over})""",
        id=id, upload=upload, one=USUAL,
    )  # fmt: skip
    for number in range(3):
        store_chunk(scenario, upload, number)


def store_chunk(scenario: Scenario, upload: UUID, number: int) -> None:
    chunk = Chunk(upload_id=upload, number=number, first=2 * number + 1, rows=2, sealed=b"x")
    runner = runner_store.PostgresStore(acting(scenario.engine, "courant_job_runner"))
    with runner.fold({}) as fold:
        fold.store([chunk])


def left_of_jobs(scenario: Scenario) -> tuple[list[bytes], int]:
    names = [bytes(name) for (name,) in scenario.ask("SELECT name FROM jobs ORDER BY id")]
    return names, len(scenario.ask("SELECT FROM chunks"))


@pytest.mark.parametrize(
    ("days", "over", "emptied"), [(8, "now()", True), (6, "now()", False), (8, "NULL", False)]
)
def test_a_job_that_is_over_loses_its_files_name_and_rows(
    scenario: Scenario, days: float, over: str, emptied: bool
) -> None:
    put_job(scenario, days, over=over)
    assert run(scenario, "content-jobs") == emptied
    assert left_of_jobs(scenario) == (([b""], 0) if emptied else ([b"x"], 3))


def test_a_jobs_chunks_go_in_bounded_bites_and_its_name_last(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "CHUNKS_MAX", 2)
    put_job(scenario, 8)
    assert run(scenario, "content-jobs") == 0
    assert left_of_jobs(scenario) == ([b"x"], 1)
    assert run(scenario, "content-jobs") == 1
    assert left_of_jobs(scenario) == ([b""], 0)


def test_a_chunk_that_is_read_again_stays_away_from_an_emptied_job(scenario: Scenario) -> None:
    put_job(scenario, 8)
    run(scenario, "content-jobs")
    store_chunk(scenario, UPLOAD, 0)
    store_chunk(scenario, UUID(int=51), 0)  # of an upload whose job is not known
    assert left_of_jobs(scenario) == ([b""], 1)


# costs

MANY = """
    INSERT INTO notifications (id, service_id, key_id, key_type, template_id, template_version,
        channel, lane, recipient_hash, sealed, accepted_at, state)
    SELECT (lpad(to_hex(:day * CAST(86400000 AS bigint)), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid,
        :service, :service, 'normal', :service, 1, 'email', 'normal', 'x', 'x',
        now() - interval '8 d' + n * interval '1 ms', 'delivered'
    FROM generate_series(1, :rows) n"""


LIMIT = 300


@pytest.mark.parametrize("known", ["beforehand", "as filled", "as emptied"])
def test_emptied_rows_cost_nothing(scenario: Scenario, known: str) -> None:
    """However little the planner knows of them, which are 200,000 on two days."""
    fill(scenario, known)
    scenario.ask("UPDATE notifications SET sealed = '', recipient_hash = ''")
    # As autovacuum does after a while; without it, entries of dead rows are looked at once more.
    vacuum(scenario, "VACUUM ANALYZE notifications" if known == "as emptied" else "VACUUM")
    for number in range(LIMIT):
        put(scenario, number, 8, "created" if number % 3 else "delivered")
    counted = costs(scenario)
    assert len(kept(scenario)) == LIMIT - LIMIT // 3
    counted["list"] = cost_of_a_list(scenario)
    assert max(counted.values()) < 10 * LIMIT, counted
    scenario.ask("TRUNCATE notifications")


@pytest.mark.parametrize("known", ["beforehand", "as filled"])
def test_rows_that_wait_to_be_emptied_cost_nothing(scenario: Scenario, known: str) -> None:
    fill(scenario, known)
    counted = costs(scenario)
    assert max(counted.values()) < 10 * LIMIT, counted
    assert len(scenario.ask("SELECT FROM notifications WHERE sealed = ''")) == LIMIT
    scenario.ask("TRUNCATE notifications")


def fill(scenario: Scenario, known: str) -> None:
    scenario.ask("TRUNCATE notifications")
    days = (TODAY - 9, TODAY - 8)
    for day in days:
        make_day(scenario.engine, "notifications", day)
    if known == "beforehand":
        scenario.ask("ANALYZE notifications")
    for day in days:
        scenario.ask(MANY, day=day, service=USUAL, rows=100_000)
    if known == "as filled":
        scenario.ask("ANALYZE notifications")


def cost_of_a_list(scenario: Scenario) -> float:
    within, which, values = pages.conditions(pages.ListFilter(USUAL, KeyType.NORMAL))
    sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {pages.LOOK.format(within=within, which=which)}"
    [(explained,)] = scenario.ask(sql, **values, rows=pages.PAGE_ROWS)
    return sum(map(looked_at, nodes(explained[0]["Plan"])))


def vacuum(scenario: Scenario, sql: str) -> None:
    with scenario.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(sql)


def costs(scenario: Scenario) -> dict[str, float]:
    """Run the task; return for each of its statements how many rows its plan looked at."""
    counted: dict[str, float] = {}

    class Explaining(PostgresRows):
        def fetch(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
            self._explain(sql, values)
            return super().fetch(sql, **values)

        def run(self, sql: str, **values: Any) -> int:
            self._explain(sql, values)
            return super().run(sql, **values)

        def _explain(self, sql: str, values: dict[str, Any]) -> None:
            if sql == content.BY_INDEX:
                return
            self._cursor.execute("SAVEPOINT explained")
            self._cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
            [(explained,)] = self._cursor.fetchall()
            self._cursor.execute("ROLLBACK TO explained")
            looked = sum(map(looked_at, nodes(explained[0]["Plan"])))
            counted[sql] = max(looked, counted.get(sql, 0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PostgresRows", Explaining)
        run(scenario, limit=LIMIT)
    assert len(counted) == 4
    return counted


# fmt: off
MISTAKES = {
    "one retention for all":  (content, "retention", "service.retention_days if service", "RETENTION_DAYS if service", test_content_is_emptied_after_the_retention_of_its_service),
    "what may be sent":       (content, "EMPTY", "AND state NOT IN ('claimed', 'created')", "", test_a_row_that_is_ordered_again_meanwhile_keeps_its_content),
    "reference kept":         (content, "EMPTY", "reference = NULL, ", "", test_one_run_empties_no_more_than_its_limit),
    "hash kept":              (content, "EMPTY", "recipient_hash = '', ", "", test_one_run_empties_no_more_than_its_limit),
    "words kept":             (content, "EMPTY", ", response = NULL", "", test_one_run_empties_no_more_than_its_limit),
    "words come back":        (saver_store, "MOVE", "CASE WHEN n.sealed <> '' THEN r.response END", "r.response", test_a_late_receipt_brings_no_words_of_the_provider_back),
    "always from the first":  (content, "look", "return ids, Place(accepted_at, id, service_id)", "return ids, FIRST_PLACE", test_rows_that_have_to_stay_hold_back_no_others),
    "never from the first":   (content, "look", "return ids, FIRST_PLACE", "return ids, place", test_rows_that_have_to_stay_hold_back_no_others),
    "waits for a lock":       (content, "EMPTY", " SKIP LOCKED", " NOWAIT", test_a_locked_row_is_left_for_a_later_run),
    "name before the chunks": (content, "EMPTY_JOBS", "c.upload_id = j.upload_id", "false", test_a_jobs_chunks_go_in_bounded_bites_and_its_name_last),
    "chunks come back":       (runner_store, "STORE_CHUNK", "upload_id = %(upload)s AND NOT", "false AND NOT", test_a_chunk_that_is_read_again_stays_away_from_an_emptied_job),
    "the usual days dropped": (content, "longest_retention", "max(days, default=RETENTION_DAYS)", "RETENTION_DAYS", test_days_are_dropped_after_the_longest_retention_of_a_service),
}
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tests_see_the_mistake(
    mistake: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    *where, test = MISTAKES[mistake]
    make_mistake(monkeypatch, BY_NAME, where)
    more = (
        {"monkeypatch": monkeypatch} if "bites" in test.__name__ and "jobs" in test.__name__ else {}
    )
    with pytest.raises((AssertionError, Unavailable)):
        test(scenario, **more)
