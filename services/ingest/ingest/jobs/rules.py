"""What a job is to its owner: how far it is, and whether a wish for it can still be granted.

Nothing here looks anything up or asks for the time.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

from courant.contracts import Command
from ingest.http.answers import Answer, error_answer
from ingest.jobs.rows import RECENT, Job, JobCounts
from ingest.read import views

PATIENCE = timedelta(minutes=1)
"""How long after its seal a job's chunks may still be on their way."""
OVER = error_answer(409, "ConflictError", "The job has finished")
FOR_GOOD = error_answer(409, "ConflictError", "The job is cancelled, which is for good")


def status(job: Job, quiet: bool) -> str:
    """Name a job's state; `quiet` where no row of it waits to be sent."""
    if job.command is Command.CANCELLED:
        return "cancelled"
    if job.finished_at and quiet:
        return "finished"
    if not job.finished_at and job.chunks_here < job.chunks and job.at < job.now - PATIENCE:
        return "error"
    if job.command is Command.PAUSED:
        return "paused"
    if job.started_at or job.finished_at:
        return "in progress"
    return "scheduled" if job.scheduled_for and job.scheduled_for > job.now else "pending"


def refusal(standing: str, command: Command) -> Answer | None:
    """Judge a wish for a job that stands so. The same wish twice is granted twice."""
    if standing == "finished":
        return OVER
    if standing == "cancelled" and command is not Command.CANCELLED:
        return FOR_GOOD
    return None


def progress(job: Job, tally: JobCounts, standing: str) -> dict[str, object]:
    """Say how far a job is: rows by the API's words, the rate, when it may be over."""
    counts = Counter[str]()
    for state, count in tally.states.items():
        counts[views.status(job.channel, state)] += count
    saved = counts.total()
    if saved < job.rows and (named := unstored(job)):
        counts[named] += job.rows - saved
    rate = tally.recent / RECENT.total_seconds()
    left = job.rows - tally.settled
    known = standing == "in progress" and rate and left
    finish = tally.at + timedelta(seconds=left / rate) if known else None
    return {
        "counts": dict(counts),
        "saved": saved,
        "rows_per_second": round(rate, 1),
        "estimated_finish": time(finish),
    }


def unstored(job: Job) -> str | None:
    """Name what the rows are that are not stored; nothing of those that were, and have gone."""
    if job.command is Command.CANCELLED:
        return "cancelled"
    # It finished when all of its rows were stored.
    return None if job.finished_at else "pending"


def time(at: datetime | None) -> str | None:
    """Write a time as the API does for jobs."""
    return at.astimezone(UTC).isoformat(timespec="microseconds") if at else None
