"""Whatever fault strikes: each row of a file becomes one notification, and commands hold."""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from courant import bulk
from courant.testing.jobs import JobTables
from courant.testing.store import FakeStore
from courant.testing.tables import Tables
from job_runner import handle, rules
from job_runner.dispatch import Dispatcher
from recovery import sweeps
from simulation import outside
from simulation.job_histories import HISTORIES, JobHistory
from simulation.job_promises import broken_promises
from simulation.job_recovery import JobRecoveryRows
from simulation.job_stores import FakeRounds
from simulation.job_world import make_predictable
from support.mistakes import replace


@pytest.fixture(autouse=True)
def one_course(monkeypatch: pytest.MonkeyPatch) -> None:
    make_predictable(monkeypatch)


@settings(
    max_examples=300,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=HISTORIES)
def test_every_promise_about_jobs_is_kept(history: JobHistory) -> None:
    assert broken_promises(history) == set()


# By description: the owner, the name in it, the right words, and the wrong ones.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    # What job-runner stores.
    "rollback not noticed in an idle partition": (handle, "stages", "compare=store.compare,", ""),
    "another body dropped": (handle, "fold_jobs", "if each.value in seals", "if False"),
    "chunk stored though it does not decrypt": (
        rules,
        "read_job",
        "isinstance(job_record, Chunk)",
        "False",
    ),
    "rows of a chunk not counted": (
        rules,
        "has_its_rows",
        "== chunk.rows",
        ">= 0",
    ),
    "commands compared by their writers' clocks": (
        rules,
        "read_job",
        "isinstance(job_record, JobCommand)",
        "False",
    ),
    # What it makes of a chunk.
    "a new id each time": (rules, "notification", "ids.of_row(job.id, number)", "ids.new(now)"),
    "rows numbered by chunk": (
        handle,
        "expand_chunks",
        "enumerate(rows, chunk.first)",
        "enumerate(rows, 1)",
    ),
    "encrypted for the job": (rules, "notification", "owner=id.bytes", "owner=job.id.bytes"),
    "the lane of single notifications": (
        rules,
        "notification",
        "INBOX.topic(job.channel, Lane.BULK)",
        "INBOX.topic(job.channel, Lane.NORMAL)",
    ),
    "the last row forgotten": (
        handle,
        "expand_chunks",
        "for number, row in enumerate(rows, chunk.first)",
        "for number, row in enumerate(rows[:-1] or rows, chunk.first)",
    ),
    "one chunk of a batch": (handle, "expand_chunks", "batch.kept", "batch.kept[:1]"),
    # When it orders a chunk.
    "started on other chunks than were sealed": (
        rules,
        "is_whole",
        "bulk.digest(found) == digest",
        "True",
    ),
    "recorded before it is written": (
        Dispatcher,
        "_order_chunks_of",
        "self._producer.flush()",
        "pass",
    ),
    "order not recorded": (Dispatcher, "_order_chunks_of", "turn.record_orders(chunks)", "pass"),
    "ordered chunks not counted": (
        Dispatcher,
        "_order_chunks",
        "self._orders_allowed(channel, channel_out,",
        "self._orders_allowed(channel, [],",
    ),
    "room for one more": (
        rules,
        "orders_allowed",
        "max(ORDERED_MIN, settled // 2) - out",
        "max(ORDERED_MIN, settled // 2) - out + 1",
    ),
    "room for nothing": (rules, "orders_allowed", "oldest_seconds >= lag_seconds", "True"),
    "settled as soon as it is ordered": (rules, "is_settled", "* 10 <= rows", ">= 0"),
    "never settled": (rules, "is_settled", "* 10 <= rows", "< 0"),
    "saved though a row is missing": (
        Dispatcher,
        "_settle",
        "stored.there == chunk.rows",
        "stored.there >= 0",
    ),
    "never finished": (Dispatcher, "run_round", "turn.finish_jobs()", "0"),
    # What recovery does for jobs.
    "lost orders not given again": (
        sweeps,
        "incomplete",
        "rows.incomplete(min(passed) - ORDER_WAIT, limit)",
        "[]",
    ),
    "rows of cancelled jobs left": (sweeps, "cancelled", "rows.cancelled(delivery, limit)", "[]"),
    "another chunk ordered": (bulk, "chunk_order", "number=number", "number=number + 1"),
    # What Postgres must do; the twins show that it does.
    "hold of jobs not raised": (Tables, "hold", "self.jobs.held = True", "pass"),
    "hold of jobs ignored by claims": (FakeStore, "claim", "tables.jobs.held", "False"),
    "hold of jobs ignored by rounds": (
        FakeRounds,
        "round",
        "tables.held or tables.jobs.held",
        "tables.held",
    ),
    "rows of stopped jobs claimed": (
        FakeStore,
        "claim",
        "if not tables.jobs.runs(",
        "if False and not tables.jobs.runs(",
    ),
    "a cancelled job can be resumed": (
        JobTables,
        "_overrides",
        "before.command is Command.CANCELLED",
        "False",
    ),
    "chunks of cancelled jobs ordered again": (
        JobRecoveryRows,
        "incomplete",
        "and not self.tables.jobs.cancelled(job.seal.job_id)",
        "",
    ),
    "ordered again before commands are known": (
        JobRecoveryRows,
        "incomplete",
        "if self.tables.jobs.held",
        "if False",
    ),
    "every upload of a key becomes a job": (
        JobTables,
        "_seal",
        "is_new and not lost",
        "True",
    ),
    "a begun job gives way": (JobTables, "_seal", "if job.movable", ""),
    "the choice is not written": (handle, "fold_jobs", "*map(rules.sealed_again, again),", ""),
    "the choice is not read": (JobTables, "_seal", "seal.instead_of is not None", "False"),
    "a repetition that gave way stays a job": (JobTables, "_remove", "del self.jobs", "self.jobs"),
    "a command to a repetition is lost": (
        JobTables,
        "_command",
        "self.aliases.get(command.job_id, command.job_id)",
        "command.job_id",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_simulation_of_jobs_detects_the_mistake(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *MISTAKES[mistake])
    if MISTAKES[mistake][0] is sweeps:
        outside.refresh_tasks(monkeypatch)
    find(
        HISTORIES,
        lambda history: bool(broken_promises(history)),
        settings=settings(max_examples=5000, phases=[Phase.generate], database=None),
        random=Random(1),
    )
