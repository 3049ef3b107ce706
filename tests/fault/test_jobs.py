"""A job during faults: every row is sent once, no row is missing, and the job's counts agree."""

import time
from datetime import timedelta

from courant import clock
from fault.harness import Harness
from fault.jobs import Job, done, faults_of, submit
from fault.test_restored_copy import restore, server
from support.waiting import BUSY_SECONDS, WAIT_SECONDS, wait

PARTS = ("ingest", "saver", "deliverer", "job-runner", "recovery", "postgres", "kafka")
SETTLED_SECONDS = 2.0
STILL_SECONDS = 5.0  # Without a booking; a running job causes hundreds of bookings a second.


def under_way(job: Job, rows: int = 1_000) -> None:
    """Wait until Postgres has this many of the job's rows."""
    wait(lambda: job.stored().total() >= rows, f"{rows} rows are stored")


def standstill(job: Job) -> int:
    """Wait until the provider books no more of the job's rows; return how many it booked."""

    def booked() -> int:
        return sum(job.booked().values())

    def still() -> tuple[int] | None:
        before = booked()
        time.sleep(STILL_SECONDS)
        return (before,) if booked() == before else None

    return wait(still, "nothing more is booked")[0]  # type: ignore[index]  # it is not None


def test_a_job_survives_kill_9_of_each_process_in_turn(harness: Harness) -> None:
    job = submit(harness, 50_000, "in-turn")
    under_way(job)
    for kind in PARTS:
        harness.kill(kind)
        harness.ready()
        time.sleep(SETTLED_SECONDS)
    assert not done(job)  # Otherwise the kills came after the job.
    assert faults_of(job) == {}
    assert sum(job.booked().values()) - job.rows <= len(harness.in_open_calls)
    assert job.shown()["job_status"] == "finished"


def test_a_job_survives_kill_9_of_every_process_at_once(harness: Harness) -> None:
    job = submit(harness, 20_000, "at-once")
    under_way(job)
    harness.kill(*PARTS, "sandbox")
    assert faults_of(job) == {}


def test_a_job_runner_killed_before_inside_and_between_chunks_sends_rows_once(
    harness: Harness,
) -> None:
    with harness.frozen("job-runner"):
        job = submit(harness, 5_000, "windows")
        harness.kill("job-runner")  # The seal is acknowledged, and no job-runner has read it.
    under_way(job, 1)
    # A frozen broker acknowledges no rows, so a job-runner that writes a chunk stays inside it.
    with harness.frozen("kafka"):
        time.sleep(0.5)
        harness.kill("job-runner")
    saved = "SELECT count(*) FROM chunks WHERE saved_at IS NOT NULL"
    before = harness.stack.sql(saved)
    wait(lambda: harness.stack.sql(saved) != before or done(job), "another chunk is saved")
    harness.kill("job-runner")
    assert faults_of(job) == {}
    assert sum(job.booked().values()) == job.rows


def test_a_job_continues_within_15_s_of_its_job_runners_death(harness: Harness) -> None:
    job = submit(harness, 30_000, "goes-on")
    under_way(job)
    harness.kill("job-runner")
    before = job.stored().total()
    wait(lambda: job.stored().total() > before + 5_000, "it continues", 15 + BUSY_SECONDS)
    assert faults_of(job) == {}


def test_a_cancelled_job_stops_and_its_waiting_rows_are_cancelled(harness: Harness) -> None:
    job = submit(harness, 50_000, "cancelled")
    under_way(job, 3_000)
    job.command("cancel")
    booked = standstill(job)
    wait(lambda: not job.stored()["created"], "the waiting rows are cancelled")
    time.sleep(STILL_SECONDS)
    assert sum(job.booked().values()) == booked < job.rows
    stored, shown = job.stored(), job.shown()
    assert shown["job_status"] == "cancelled"
    wait(lambda: job.shown()["counts"].get("cancelled") == job.rows - booked, "counts agree")
    assert stored["cancelled"] == stored.total() - booked


def test_a_paused_job_stops_and_continues_when_it_is_resumed(harness: Harness) -> None:
    job = submit(harness, 20_000, "paused")
    under_way(job, 3_000)
    job.command("pause")
    booked = standstill(job)
    assert booked < job.rows
    assert job.shown()["job_status"] == "paused"
    job.command("resume")
    assert faults_of(job) == {}
    assert sum(job.booked().values()) == job.rows


def test_a_scheduled_job_starts_at_its_time_after_a_restart_of_the_stack(harness: Harness) -> None:
    at = clock.now() + timedelta(seconds=120)
    job = submit(harness, 1_000, "scheduled", scheduled_for=at.isoformat())
    harness.stack.courant("down")
    harness.stack.courant("up", "--detach")
    assert clock.now() < at
    assert job.shown()["job_status"] == "scheduled"
    assert not job.booked()
    wait(job.booked, "its first row is sent", 120 + WAIT_SECONDS)
    late = clock.now() - at
    assert timedelta() < late < timedelta(seconds=5 + BUSY_SECONDS)
    assert faults_of(job) == {}


def test_a_job_survives_a_restore_of_postgres_to_an_earlier_copy(harness: Harness) -> None:
    job = submit(harness, 300_000, "put-back")
    under_way(job)
    copy = harness.stack.plan.home / "postgres" / "copy"
    server(harness).copy_to(copy)
    began = time.monotonic()
    while time.monotonic() - began < 60 and not done(job):
        time.sleep(1)
    assert not done(job)
    restore(harness, copy)
    assert faults_of(job) == {}
    assert sum(job.booked().values()) == job.rows
