"""Ingest shows and controls jobs, with a real broker, a real PostgreSQL and real HTTP."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sqlalchemy import create_engine

from courant import ids
from courant.contracts import JobCommand, decode_job
from courant.kafka import clients, offsets
from courant.postgres import migrate
from courant.topics import JOBS
from ingest.jobs import store
from integration.ingest_stack import Stack, stack
from support.ingest.stored_jobs import StoredJobs
from support.ingest.world import api_key
from support.waiting import ANSWER_SECONDS, WAIT_SECONDS, in_time, wait

AUTHORIZED = {"authorization": f"ApiKey-v1 {api_key(1)}"}
STATES = {1: "delivered", 2: "created", 3: "claimed", 4: "delivered"}


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as started:
        yield started


@pytest.fixture(scope="module")
def stored(running: Stack) -> StoredJobs:
    return StoredJobs(running.postgres.url)


def ask(running: Stack, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
    url = f"{running.base}/v2/jobs{path}"
    return httpx2.request(method, url, headers=AUTHORIZED, timeout=ANSWER_SECONDS, **more)


def test_a_job_is_counted_by_the_states_of_its_rows(running: Stack, stored: StoredJobs) -> None:
    other = stored.job(rows=3)
    job = stored.job(rows=6, started_at=datetime.now(UTC), chunks=2)
    stored.rows(other, range(1, 4), lambda _: "sending")
    stored.chunk(job, 1, ["a@example.com"] * 4)
    stored.chunk(job, 5, ["e@example.com", "f@example.com"], settled=False)
    stored.rows(job, list(STATES), STATES.__getitem__)
    shown = ask(running, f"/{job}").json()["data"]
    assert shown["counts"] == {"delivered": 2, "created": 1, "sending": 1, "pending": 2}
    assert (shown["saved"], shown["notification_count"]) == (4, 6)
    assert (shown["job_status"], shown["original_file_name"]) == ("in progress", "list.csv")
    assert shown["rows_per_second"] == 0.1
    finish = datetime.fromisoformat(shown["estimated_finish"])
    assert 5 < (finish - datetime.now(UTC)).total_seconds() < 16
    [first, second] = ask(running, "").json()["jobs"][:2]
    assert [(first["id"], first["job_status"])] == [(str(job), "in progress")]
    assert [(second["id"], second["job_status"])] == [(str(other), "pending")]


def test_a_job_has_finished_when_none_of_its_rows_waits(running: Stack, stored: StoredJobs) -> None:
    now = datetime.now(UTC)
    job = stored.job(rows=2, started_at=now, finished_at=now)
    stored.chunk(job, 1, ["a@example.com", "b@example.com"])
    stored.rows(job, [1, 2], {1: "delivered", 2: "claimed"}.__getitem__)

    def standings() -> set[str]:
        [listed] = [e for e in ask(running, "").json()["jobs"] if e["id"] == str(job)]
        return {listed["job_status"], ask(running, f"/{job}").json()["data"]["job_status"]}

    assert standings() == {"in progress"}
    assert ask(running, f"/{job}/pause", "POST").status_code == 202
    stored.execute("UPDATE notifications SET state = 'sending' WHERE job_id = %s", job)
    wait(lambda: standings() == {"finished"})  # Ingest caches the counts for a second.
    answer = ask(running, f"/{job}/cancel", "POST")
    assert (answer.status_code, answer.json()["errors"][0]["error"]) == (409, "ConflictError")


def test_a_job_whose_chunks_are_missing_for_a_minute_shows_error(
    running: Stack, stored: StoredJobs
) -> None:
    job = stored.job(rows=2, chunks=2)
    stored.chunk(job, 1, ["a@example.com"])

    def standing() -> str:
        return str(ask(running, f"/{job}").json()["data"]["job_status"])

    assert standing() == "pending"
    stored.execute("UPDATE jobs SET at = now() - interval '61 s' WHERE id = %s", job)
    assert standing() == "error"
    stored.chunk(job, 2, ["b@example.com"])
    assert standing() == "pending"


def test_a_command_stored_in_postgres_shows_in_the_job(running: Stack, stored: StoredJobs) -> None:
    job = stored.job(rows=3)
    stored.rows(job, [1], lambda _: "cancelled")
    stored.execute(
        "INSERT INTO wishes (job_id, wish, wished_at) VALUES (%s, 'cancelled', now())", job
    )
    shown = ask(running, f"/{job}").json()["data"]
    assert (shown["job_status"], shown["counts"]) == ("cancelled", {"cancelled": 3})
    assert ask(running, f"/{job}/resume", "POST").status_code == 409


def commands(running: Stack, job: UUID) -> list[str]:
    """Read a job's commands from the broker, oldest first."""
    reader = Consumer({"bootstrap.servers": running.broker.bootstrap, "group.id": "tests",
                       "enable.partition.eof": True})  # fmt: skip
    topic = running.cluster.topic(JOBS.name)
    reader.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(JOBS.partitions)])
    read, unfinished = [], JOBS.partitions
    while unfinished:
        [message] = reader.consume(1, WAIT_SECONDS)
        if message.error():
            unfinished -= 1
            continue
        record = decode_job(message.value() or b"")
        if message.key() == job.bytes:
            assert isinstance(record, JobCommand)
            assert record.job_id == job
            read.append(str(record.command))
    reader.close()
    return read


def test_commands_are_written_to_kafka_in_the_order_in_which_they_came(
    running: Stack, stored: StoredJobs
) -> None:
    job = stored.job(rows=3)
    for verb, standing in [("pause", "paused"), ("resume", "pending"), ("cancel", "cancelled")]:
        answer = ask(running, f"/{job}/{verb}", "POST")
        assert answer.status_code == 202
        assert answer.json()["data"]["job_status"] == standing
    assert commands(running, job) == ["paused", "resumed", "cancelled"]


def test_a_command_that_kafka_does_not_acknowledge_is_answered_503_in_time(
    running: Stack, stored: StoredJobs
) -> None:
    job = stored.job(rows=3)
    assert ask(running, f"/{job}").status_code == 200
    running.broker.freeze()
    try:
        answer = in_time(2.2, lambda: ask(running, f"/{job}/cancel", "POST"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    finally:
        running.broker.thaw()
    wait(lambda: ask(running, f"/{job}/cancel", "POST").status_code == 202)


def test_a_read_before_the_row_exists_waits_for_it(running: Stack, stored: StoredJobs) -> None:
    def asked_first() -> bool:
        """Insert the row once its read waits; on a busy machine the read may end too soon."""
        id = ids.new(datetime.now(UTC))
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(ask, running, f"/{id}")
            wait(lambda: running.in_flight() == 1 or answer.done())
            stored.job(rows=1, id=id)
            return answer.result().status_code == 200

    wait(asked_first)


def test_an_alias_is_read_and_cancelled_as_its_winner(running: Stack, stored: StoredJobs) -> None:
    job, loser = stored.job(rows=1), ids.new(datetime.now(UTC))
    stored.execute("INSERT INTO aliases (id, winner) VALUES (%s, %s)", loser, job)
    assert ask(running, f"/{loser}").json()["data"]["id"] == str(job)
    assert ask(running, f"/{loser}/cancel", "POST").status_code == 202
    assert commands(running, job) == ["cancelled"]


def test_404_is_answered_only_once_all_earlier_seals_are_folded(
    running: Stack, stored: StoredJobs
) -> None:
    young = f"/{ids.new(datetime.now(UTC))}"
    began = time.monotonic()
    answer = in_time(3, lambda: ask(running, young))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert time.monotonic() - began > 1.5
    with clients.admin(running.cluster, "test") as client:
        [topic_id] = offsets.topic_ids(client, [JOBS.name]).values()
    mark = (
        "INSERT INTO marks (at, topic_id, family, topic, ends) "
        "VALUES (now() + interval '1 minute', %s, %s, %s, %s)"
    )
    stored.execute(mark, topic_id, "jobs", "jobs", [1] * JOBS.partitions)
    assert ask(running, young).status_code == 503  # No record is folded up to this mark.
    for number in range(JOBS.partitions):
        put = 'INSERT INTO positions (topic_id, "partition", next) VALUES (%s, %s, 1)'
        stored.execute(put, topic_id, number)
    answer = ask(running, young)
    assert (answer.status_code, answer.json()) == (
        404,
        {
            "status_code": 404,
            "errors": [{"error": "NoResultFound", "message": "No result found"}],
        },
    )
    stored.execute("DELETE FROM marks")


def test_a_report_has_every_row_once_in_order(running: Stack, stored: StoredJobs) -> None:
    job = stored.job(rows=2_500, chunks=5)
    for first in range(1, 2_501, 500):
        stored.chunk(job, first, [f"file-{first + n}@example.com" for n in range(500)])
    stored.rows(job, range(1, 1_201), lambda number: "delivered" if number % 2 else "created")
    answer = ask(running, f"/{job}/report")
    lines = list(csv.reader(io.StringIO(answer.text, newline="")))[1:]
    assert [int(row[0]) for row in lines] == list(range(1, 2_501))
    assert [row[1] for row in lines] == [
        f"{'person' if number <= 1_200 else 'file'}-{number}@example.com"
        for number in range(1, 2_501)
    ]
    assert [row[4] for row in lines] == [
        ("delivered" if number % 2 else "created") if number <= 1_200 else "pending"
        for number in range(1, 2_501)
    ]
    assert lines[1_199][3] == str(ids.of_row(job, 1_200))


@contextmanager
def without_postgres(running: Stack) -> Iterator[None]:
    running.postgres.stop()
    try:
        yield
    finally:
        running.postgres.start()
        running.postgres.wait_ready()


LARGE = 10_000_000
"""The rows of a report that exceeds any socket's buffer and takes half a minute to write."""


def test_a_report_breaks_off_when_postgres_goes_away(running: Stack, stored: StoredJobs) -> None:
    job = stored.job(rows=LARGE)
    url = f"{running.base}/v2/jobs/{job}/report"
    with httpx2.stream("GET", url, headers=AUTHORIZED, timeout=ANSWER_SECONDS) as answer:
        assert answer.status_code == 200
        parts = answer.iter_bytes()
        assert next(parts)
        with without_postgres(running), pytest.raises(httpx2.RemoteProtocolError):
            sum(map(len, parts))
    wait(lambda: ask(running, f"/{job}").status_code == 200)


def test_a_client_that_disconnects_ends_its_report(running: Stack, stored: StoredJobs) -> None:
    job = stored.job(rows=LARGE)
    url = f"{running.base}/v2/jobs/{job}/report"
    wait(lambda: running.in_flight() == 0)
    with httpx2.stream("GET", url, headers=AUTHORIZED, timeout=ANSWER_SECONDS) as answer:
        # A variable keeps the generator alive. It closes its connection when it is collected.
        parts = answer.iter_bytes()
        assert next(parts)
        assert running.in_flight() == 1
    wait(lambda: running.in_flight() == 0)


def test_a_jobs_rows_are_found_by_the_primary_key_only(running: Stack, stored: StoredJobs) -> None:
    for _ in range(20):
        other = stored.job(rows=500)
        stored.rows(other, range(1, 501), lambda _: "delivered")
    job = stored.job(rows=500)
    stored.rows(job, range(1, 501), lambda _: "delivered")
    stored.execute("ANALYZE notifications")
    engine = create_engine(migrate.engine_url(running.postgres.url_of("courant_ingest")))
    low, high = ids.of_rows(job, 1, 500)
    asked = {"low": low, "high": high, "job": job}
    with engine.connect() as connection:
        for question in (store.STATES, store.HAS_UNSENT, store.STORED_ROWS):
            explain = type(question)(f"EXPLAIN {question.text}")
            plan = "\n".join(row[0] for row in connection.execute(explain, asked))
            assert f"notifications_{ids.day_of(job)}_pkey" in plan, plan
            assert "Seq Scan" not in plan
    engine.dispose()


def test_the_command_line_lists_controls_and_reports_a_job(
    running: Stack, stored: StoredJobs, tmp_path: Path
) -> None:
    job = stored.job(rows=3)
    stored.rows(job, [1, 2], lambda _: "delivered")
    stored.chunk(job, 1, ["a@example.com", "b@example.com", "+16135550100"])
    env = {**os.environ, "COURANT_URL": running.base, "COURANT_API_KEY": api_key(1),
           "COURANT_HOME": str(tmp_path / "home")}  # fmt: skip

    def courant(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "courant_cli.main", "job", *words]
        return subprocess.run(
            command,
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    assert str(job) in courant("list").stdout
    done = courant("report", str(job))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / f"job-{job}.csv").read_text().splitlines()
    assert lines[3] == "3,'+16135550100,,,pending,Waits for its turn,,,"
    assert json.loads(courant("cancel", str(job), "--json").stdout)["job_status"] == "cancelled"
    stored.execute(
        "INSERT INTO wishes (job_id, wish, wished_at) VALUES (%s, 'cancelled', now())", job
    )
    done = courant("watch", str(job))
    assert (done.returncode, "1 cancelled  2 delivered" in done.stdout) == (1, True)
    done = courant("resume", str(job))
    assert (done.returncode, "409: The job is cancelled" in done.stderr) == (1, True)
