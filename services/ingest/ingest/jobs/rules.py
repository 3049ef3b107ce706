"""Decides a job's status and progress, and whether a command for it is still allowed.

Nothing here does I/O or reads a clock.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

from courant.contracts import Command
from ingest.http.answers import Answer, error_answer
from ingest.jobs.rows import RATE_PERIOD, Job, JobCounts
from ingest.read import views

CHUNKS_LATE_AFTER = timedelta(minutes=1)
"""A job whose chunks are not all stored this long after its seal has the status error."""
JOB_FINISHED = error_answer(409, "ConflictError", "The job has finished")
JOB_CANCELLED = error_answer(409, "ConflictError", "The job is cancelled, which is for good")


def status(job: Job, nothing_to_send: bool) -> str:
    """Return a job's status. `nothing_to_send`: no stored row of it waits to be sent."""
    if job.command is Command.CANCELLED:
        return "cancelled"
    if job.finished_at and nothing_to_send:
        return "finished"
    chunks_missing = not job.finished_at and job.chunks_stored < job.chunks
    if chunks_missing and job.stored_at < job.now - CHUNKS_LATE_AFTER:
        return "error"
    if job.command is Command.PAUSED:
        return "paused"
    if job.started_at or job.finished_at:
        return "in progress"
    return "scheduled" if job.scheduled_for and job.scheduled_for > job.now else "pending"


def check_command(status: str, command: Command) -> Answer | None:
    """Return the refusal of a command for a job with this status, or None if it is allowed.

    A command may be repeated.
    """
    if status == "finished":
        return JOB_FINISHED
    if status == "cancelled" and command is not Command.CANCELLED:
        return JOB_CANCELLED
    return None


def progress(job: Job, job_counts: JobCounts, status: str) -> dict[str, object]:
    """Return a job's rows by the API's statuses, its rate, and when it may finish."""
    counts = Counter[str]()
    for state, count in job_counts.states.items():
        counts[views.status(job.channel, state)] += count
    saved = counts.total()
    if saved < job.rows and (unstored_status := status_of_unstored_rows(job)):
        counts[unstored_status] += job.rows - saved
    rate = job_counts.settled_recently / RATE_PERIOD.total_seconds()
    left = job.rows - job_counts.settled
    predictable = status == "in progress" and rate and left
    finish_at = job_counts.counted_at + timedelta(seconds=left / rate) if predictable else None
    return {
        "counts": dict(counts),
        "saved": saved,
        "rows_per_second": round(rate, 1),
        "estimated_finish": job_time(finish_at),
    }


def status_of_unstored_rows(job: Job) -> str | None:
    """Return the status of rows that are not stored, or None if retention removed them."""
    if job.command is Command.CANCELLED:
        return "cancelled"
    # A job finishes once all its rows are stored, so rows that are missing later were removed.
    return None if job.finished_at else "pending"


def job_time(at: datetime | None) -> str | None:
    """Return a time as the API prints it for jobs, or None for no time."""
    return at.astimezone(UTC).isoformat(timespec="microseconds") if at else None
