"""Recovery's tasks for jobs, on a real PostgreSQL: sweeps and upkeep."""

# ruff: noqa: E501  (the table of mistakes is one)

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from courant import ids
from courant.contracts import ChunkOrder, Command, JobCommand, decode_job
from courant.directory.entries import Directory
from courant.postgres import jobs
from courant.testing import builders
from courant.testing.builders import DELIVERY
from courant.topics import CHUNKS, INBOX, JOBS, Lane, Positions
from recovery import store, sweeps, tasks, upkeep
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from support.recovery import Scenario, ago, id_of, make_mistake

BY_NAME = {task.name: task for task in TASKS}
JOB = id_of(5_000)
UPLOAD = UUID(int=50)
BULK = INBOX.topics(Lane.BULK)


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def run(scenario: Scenario, name: str, positions: Positions | None = None) -> int:
    tools = Tools(scenario.producer, Directory(), positions or {}, timedelta(seconds=30))
    return tasks.run(BY_NAME[name], scenario.store, tools)


def sweep(
    scenario: Scenario, name: str, positions: Positions | None = None
) -> list[tuple[str, int, str]]:
    """Run one sweep; return every order and decision of a notification that was ever written."""
    run(scenario, name, positions)
    return [record for record in scenario.written() if record[0] not in (CHUNKS.name, JOBS.name)]


def job(scenario: Scenario, id: UUID = JOB, upload: UUID = UPLOAD, **times: str) -> None:
    times = {"accepted_at": "now()", **times}
    names, values = ", ".join(times), ", ".join(map(ago, times.values()))
    scenario.ask(
        f"""INSERT INTO jobs (id, upload_id, chunks, rows, digest, service_id, key_id, key_type,
        template_id, template_version, channel, name, {names})
        VALUES (:id, :upload, 3, 6, '', :one, :one, 'normal', :one, 1, 'email', '', {values})""",
        id=id, upload=upload, one=UUID(int=1),
    )  # fmt: skip


def chunk(scenario: Scenario, number: int, upload: UUID = UPLOAD, **columns: str) -> None:
    columns = {"orders": "1" if "issued_at" in columns else "0", **columns}
    names, values = ", ".join(columns), ", ".join(map(ago, columns.values()))
    scenario.ask(
        f"""INSERT INTO chunks (upload_id, number, first, rows, fingerprint, sealed, {names})
        VALUES (:upload, :number, :first, 2, '', '', {values})""",
        upload=upload, number=number, first=2 * number + 1,
    )  # fmt: skip


def rows(scenario: Scenario, *numbers: int) -> None:
    """Store these rows of the job."""
    for number in numbers:
        scenario.row(number, job_id=f"'{JOB}'", job_row=str(number), lane="'bulk'")
        old, new = id_of(number), ids.of_row(JOB, number)
        scenario.ask("UPDATE notifications SET id = :new WHERE id = :old", new=new, old=old)


def put_command(scenario: Scenario, wish: str, at: str = "now()") -> None:
    sql = f"INSERT INTO wishes (job_id, wish, wished_at, at) VALUES (:id, :wish, now(), {ago(at)})"
    scenario.ask(sql, id=JOB, wish=wish)


def passed(scenario: Scenario, seconds: float) -> Positions:
    """Everything written to the chunks and to the bulk inboxes before then is handled."""
    for topic in BULK:
        scenario.mark(topic, seconds, 7)
        scenario.fold_to(topic, 7)
    scenario.mark(CHUNKS.name, seconds, 7)
    return {builders.partition(CHUNKS.name): 7}


def ordered(scenario: Scenario) -> list[int]:
    """Return the numbers of the chunks that were ordered."""
    kafka = scenario.world.kafka
    partitions = kafka.partitions(CHUNKS.name)
    orders = [ChunkOrder.decode(r.value) for partition in partitions for r in kafka.log[partition]]
    assert all(order.job_id == JOB for order in orders)
    return sorted(order.number for order in orders)


def test_chunks_that_lack_rows_are_ordered_again_once_and_noted(scenario: Scenario) -> None:
    job(scenario)
    chunk(scenario, 0, issued_at="ago(90)")  # its rows are there
    chunk(scenario, 1, issued_at="ago(90)")  # one of two
    chunk(scenario, 2, issued_at="ago(90)", saved_at="ago(80)")  # was counted before, and waits
    chunk(scenario, 3, issued_at="ago(59)")  # may still be on its way
    chunk(scenario, 4)  # had no order yet
    rows(scenario, 1, 2, 3)
    sweep(scenario, "incomplete", passed(scenario, 1))
    assert ordered(scenario) == [1]
    sweep(scenario, "incomplete", passed(scenario, 0.5))
    assert ordered(scenario) == [1]
    whole = "SELECT number FROM chunks WHERE saved_at IS NOT NULL ORDER BY 1"
    assert scenario.ask(whole) == [(0,), (2,)]
    assert scenario.ask("SELECT orders FROM chunks WHERE number = 1") == [(2,)]


def test_chunks_that_stay_incomplete_are_ordered_more_and_more_seldom(scenario: Scenario) -> None:
    job(scenario)
    for number, orders in enumerate((1, 2, 3, 9)):
        chunk(scenario, number, issued_at="ago(200)", orders=str(orders))
    chunk(scenario, 4, issued_at="ago(3800)", orders="9")
    sweep(scenario, "incomplete", passed(scenario, 1))
    assert ordered(scenario) == [0, 1, 4]  # after one minute, two, four; never later than an hour


def test_chunks_that_may_wait_in_a_backlog_are_not_ordered_again(scenario: Scenario) -> None:
    job(scenario)
    chunk(scenario, 0, issued_at="ago(90)")
    positions = passed(scenario, 1)
    scenario.fold_to(BULK[0], 6)  # the saver has not read so far
    sweep(scenario, "incomplete", positions)
    scenario.fold_to(BULK[0], 7)
    sweep(scenario, "incomplete", {builders.partition(CHUNKS.name): 6})  # nor the runner
    sweep(scenario, "incomplete", {})
    assert ordered(scenario) == []
    sweep(scenario, "incomplete", positions)
    assert ordered(scenario) == [0]


def test_another_jobs_rows_do_not_count(scenario: Scenario) -> None:
    job(scenario)
    chunk(scenario, 0, issued_at="ago(90)")
    rows(scenario, 1, 2)
    scenario.ask("UPDATE notifications SET job_id = :other", other=UUID(int=6))
    sweep(scenario, "incomplete", passed(scenario, 1))
    assert ordered(scenario) == [0]


def test_chunks_of_a_cancelled_job_are_not_ordered_again(scenario: Scenario) -> None:
    job(scenario)
    chunk(scenario, 0, issued_at="ago(90)")
    put_command(scenario, "cancelled")
    sweep(scenario, "incomplete", passed(scenario, 1))
    assert ordered(scenario) == []


def test_until_commands_are_known_again_no_row_of_a_job_expires_and_no_chunk_is_ordered(
    scenario: Scenario,
) -> None:
    job(scenario)
    chunk(scenario, 0, issued_at="ago(90)")
    rows(scenario, 1)
    scenario.row(9)
    scenario.ask("UPDATE notifications SET accepted_at = now() - interval '80 h'")
    scenario.ask("UPDATE notifications SET issued_at = now() - interval '99 s'")
    scenario.ask("INSERT INTO holds (scope, reason) VALUES ('jobs', '')")
    scenario.mark(DELIVERY, 1, 7)
    scenario.fold_to(DELIVERY, 7)
    positions = passed(scenario, 1)
    sweep(scenario, "incomplete", positions)
    assert ordered(scenario) == []
    assert [number for _, number, _ in sweep(scenario, "expired")] == [9]
    scenario.ask("UPDATE holds SET stands = false")
    sweep(scenario, "incomplete", positions)
    assert ordered(scenario) == [0]
    assert len(sweep(scenario, "expired")) == 2


def test_a_job_ends_before_its_rows_would_be_refused(scenario: Scenario) -> None:
    day = 86_400
    old, other, over = id_of(1), id_of(2), id_of(3)
    job(scenario, old, UUID(int=61), accepted_at=f"ago({13 * day + 99})")
    job(scenario, other, UUID(int=62), accepted_at=f"ago({13 * day - 999})")
    job(scenario, over, UUID(int=63), accepted_at=f"ago({14 * day})", finished_at="now()")
    job(scenario, JOB, accepted_at=f"ago({14 * day})")
    put_command(scenario, "cancelled")
    assert run(scenario, "outlived") == 1
    kafka = scenario.world.kafka
    [record] = [record for at in kafka.partitions(JOBS.name) for record in kafka.log[at]]
    command = decode_job(record.value)
    assert isinstance(command, JobCommand)
    assert (record.key, command.job_id, command.command) == (old.bytes, old, Command.CANCELLED)


def folded(scenario: Scenario) -> None:
    """Fold `delivery` up to a second ago, so that a later sweep skips what one just wrote."""
    scenario.mark(DELIVERY, 1, 7)
    scenario.fold_to(DELIVERY, 7)


def cancelled(scenario: Scenario) -> list[str]:
    return [move for _, _, move in sweep(scenario, "cancelled")]


def test_waiting_rows_of_a_cancelled_job_are_cancelled_once(scenario: Scenario) -> None:
    rows(scenario, 1, 2, 3)
    scenario.ask("UPDATE notifications SET issued_at = now() - interval '9 s'")
    sent, attempt = ids.of_row(JOB, 2), ids.of_row(JOB, 3)
    scenario.ask("UPDATE notifications SET state = 'sending', attempt = 1 WHERE id = :id", id=sent)
    scenario.ask("UPDATE notifications SET attempt = 4 WHERE id = :id", id=attempt)
    scenario.row(9, lane="'bulk'", job_id=f"'{UUID(int=6)}'", issued_at="ago(9)")  # another job's
    put_command(scenario, "cancelled")
    folded(scenario)
    assert cancelled(scenario) == ["cancelled/0", "cancelled/4"]
    assert cancelled(scenario) == ["cancelled/0", "cancelled/4"]


def test_rows_of_a_paused_job_are_neither_cancelled_nor_expired_nor_ordered_again(
    scenario: Scenario,
) -> None:
    rows(scenario, 1)
    scenario.ask("UPDATE notifications SET issued_at = now() - interval '99 s'")
    put_command(scenario, "paused")
    folded(scenario)
    assert cancelled(scenario) == []
    topic = "persisted.email.bulk"
    scenario.mark(topic, 1, 7)
    positions = {builders.partition(topic): 7}
    assert sweep(scenario, "replay-created", positions) == []
    scenario.ask("UPDATE notifications SET accepted_at = now() - interval '80 h'")
    scenario.mark(DELIVERY, 0.5, 7)
    assert sweep(scenario, "expired") == []
    scenario.ask("UPDATE wishes SET wish = 'resumed', wished_at = now() - interval '71 h'")
    assert sweep(scenario, "expired") == []  # it has its whole time from then
    assert [topic for topic, _, _ in sweep(scenario, "replay-created", positions)] == [topic]
    scenario.ask("UPDATE notifications SET issued_at = now() - interval '99 s'")
    scenario.ask("UPDATE wishes SET wished_at = now() - interval '73 h'")
    assert [record[0] for record in sweep(scenario, "expired")] == [DELIVERY, topic]


def test_uploads_outlive_the_log_that_may_bring_their_seal_and_done_ones_a_week(
    scenario: Scenario,
) -> None:
    day, week = 86_400, 7 * 86_400
    running, young, old = (UUID(int=60 + n) for n in range(3))
    job(scenario, id_of(1), running)
    job(scenario, id_of(2), young, finished_at=f"ago({week - 99})")
    job(scenario, id_of(3), old, finished_at=f"ago({week + 99})")
    for upload in (running, young, old):
        chunk(scenario, 0, upload, at=f"ago({week + day})")
    chunk(scenario, 0, UPLOAD, at=f"ago({2 * week - 99})")
    chunk(scenario, 1, UPLOAD, at=f"ago({2 * week + day})")
    everything = {(running, 0), (young, 0), (old, 0), (UPLOAD, 0), (UPLOAD, 1)}
    run(scenario, "chunks")
    assert chunks_left(scenario) == everything  # job-runner has not read its log
    scenario.mark(JOBS.name, 2 * day, 7)
    scenario.fold_to(JOBS.name, 7)
    run(scenario, "chunks")
    assert chunks_left(scenario) == everything - {(old, 0), (UPLOAD, 1)} | {(UPLOAD, 1)}
    scenario.mark(JOBS.name, 1, 7)
    run(scenario, "chunks")
    assert chunks_left(scenario) == {(running, 0), (young, 0), (UPLOAD, 0)}


def chunks_left(scenario: Scenario) -> set[tuple[UUID, int]]:
    return {
        (upload, number) for upload, number in scenario.ask("SELECT upload_id, number FROM chunks")
    }


def test_jobs_outlive_the_log_that_could_bring_them_back(scenario: Scenario) -> None:
    log_days = 14
    long_ago = f"ago({29 * 86_400})"
    job(scenario, id_of(1), UUID(int=61), at=long_ago, finished_at=long_ago)
    job(scenario, JOB, UUID(int=62), at=long_ago)  # not over
    job(scenario, id_of(3), UUID(int=63), at=f"ago({(log_days + 8) * 86_400})", finished_at="now()")
    put_command(scenario, "paused", long_ago)
    run(scenario, "jobs")
    assert {id for (id,) in scenario.ask("SELECT id FROM jobs")} == {JOB, id_of(3)}
    assert scenario.ask("SELECT wish FROM wishes") == [("paused",)]  # it must not begin by itself
    scenario.ask("UPDATE jobs SET finished_at = now()")
    run(scenario, "jobs")
    assert scenario.ask("SELECT FROM wishes") == []


AGAIN = test_chunks_that_lack_rows_are_ordered_again_once_and_noted
BACKLOG = test_chunks_that_may_wait_in_a_backlog_are_not_ordered_again
ONCE = test_waiting_rows_of_a_cancelled_job_are_cancelled_once
PAUSED = test_rows_of_a_paused_job_are_neither_cancelled_nor_expired_nor_ordered_again
UNKNOWN = test_until_commands_are_known_again_no_row_of_a_job_expires_and_no_chunk_is_ordered
UPLOADS = test_uploads_outlive_the_log_that_may_bring_their_seal_and_done_ones_a_week
# The module, the name in it, the right text, the wrong text, and the test that must see it.
# fmt: off
MISTAKES: dict[str, tuple[Any, str, str, str, Callable[[Scenario], None]]] = {
    "ordered before it is proved": (sweeps, "incomplete", "min(passed) - ORDER_WAIT", "min(passed)", AGAIN),
    "inbox of no account": (sweeps, "incomplete", "[*inbox.values(), *", "[*inbox.values()][:0] + [*", BACKLOG),
    "saved ones counted again": (store, "UNSAVED", "AND c.saved_at IS NULL\n", "\n", AGAIN),
    "ordered every minute": (store, "UNSAVED", "least(2 ^ (c.orders - 1) - 1, 60)", "0", test_chunks_that_stay_incomplete_are_ordered_more_and_more_seldom),
    "old jobs go on": (store, "OUTLIVED", "j.accepted_at < now() - %(age)s", "false", test_a_job_ends_before_its_rows_would_be_refused),
    "paused ones expire": (store, "EXPIRED", "w.wish = 'paused'", "false", PAUSED),
    "ordered before commands are known": (store, "UNSAVED", "h.scope = 'jobs'", "false", UNKNOWN),
    "expired before commands are known": (store, "EXPIRED", "h.scope = 'jobs'", "false", UNKNOWN),
    "seals of no account": (upkeep, "FORGET_CHUNKS", "%(passed)s", "now()", UPLOADS),
    "wishes forgotten": (upkeep, "FORGET_WISHES", "j.id = o.job_id", "false", test_jobs_outlive_the_log_that_could_bring_them_back),
    "cancelled ones ordered": (store, "UNSAVED", "w.wish = 'cancelled'", "false", test_chunks_of_a_cancelled_job_are_not_ordered_again),
    "order not noted": (jobs, "ORDERED", "WHERE chunks", "WHERE false AND chunks", AGAIN),
    "cancelled again and again": (store, "CANCELLED", "AND n.issued_at < %(before)s", "", ONCE),
    "what is sent is cancelled": (store, "CANCELLED", "n.state = 'created' AND coalesce(not_before <= issued_at, true) AND n.job_id IS NOT NULL AND n.channel = j", "n.channel = j", ONCE),
    "paused ones cancelled": (store, "CANCELLED", "w.wish = 'cancelled'", "true", PAUSED),
    "paused ones ordered": (store, "UNCLAIMED_OF_JOBS", "w.wish <> 'resumed'", "false", PAUSED),
    "running jobs forgotten": (upkeep, "FORGET_CHUNKS", "j.finished_at < now() - %(age)s", "true", UPLOADS),
    "undone jobs forgotten": (upkeep, "FORGET_JOBS", "AND o.finished_at IS NOT NULL", "", test_jobs_outlive_the_log_that_could_bring_them_back),
}
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tests_see_the_mistake(
    mistake: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    *where, test = MISTAKES[mistake]
    make_mistake(monkeypatch, BY_NAME, where)
    with pytest.raises(AssertionError):
        test(scenario)
