"""Submit a job to a stack under faults, and check each of its rows at the end.

The file is the oracle: the provider's ledger must list each of its recipients once.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from fault.harness import REPORTS, Harness
from support.waiting import WAIT_SECONDS, wait

QUIET_SECONDS = 420.0


@dataclass(frozen=True)
class Job:
    """A submitted job and the stack that runs it."""

    harness: Harness
    id: str
    rows: int
    name: str  # The file's name, which is also part of its recipients' domain.

    @property
    def domain(self) -> str:
        return f"{self.name}.example.com"

    def shown(self) -> dict[str, Any]:
        """Return the job as the API shows it."""
        answer = call(self.harness, "GET", f"/v2/jobs/{self.id}")
        data: dict[str, Any] = answer.json()["data"]
        return data

    def booked(self) -> Counter[str]:
        """Count the lines of the provider's ledger for each recipient of the job."""
        recipients = (line["to"] for line in self.harness.stack.ledger())
        return Counter(to for to in recipients if to.endswith(f"@{self.domain}"))

    def stored(self) -> Counter[str]:
        """Count the job's rows in Postgres by state."""
        sql = "SELECT state, count(*) FROM notifications WHERE job_id = %s GROUP BY state"
        return Counter(dict(self.harness.stack.sql(sql, self.id)))

    def command(self, verb: str) -> None:
        assert call(self.harness, "POST", f"/v2/jobs/{self.id}/{verb}").status_code == 202


def call(harness: Harness, method: str, path: str, **options: Any) -> httpx2.Response:
    """Call the API with the demo service's key; retry while it answers 503 or does not answer."""
    key = harness.stack.variables["COURANT_API_KEY"]
    headers = {"Authorization": f"ApiKey-v1 {key}", **options.pop("headers", {})}
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            answer = httpx2.request(
                method, harness.stack.url + path, headers=headers, timeout=30, **options
            )
            if answer.status_code != 503:
                return answer
        except httpx2.HTTPError:
            pass
        assert time.monotonic() < until, f"{method} {path}"
        time.sleep(0.5)


def submit(harness: Harness, rows: int, name: str, **fields: str) -> Job:
    """Upload a file with `rows` rows; the recipients' domain contains `name`."""
    lines = (f"row-{n}@{name}.example.com,Row {n}" for n in range(rows))
    file = "\n".join(["email address,name", *lines]) + "\n"
    known = {"template_id": harness.stack.variables["COURANT_EMAIL_TEMPLATE_ID"], **fields}
    answer = call(
        harness,
        "POST",
        "/v2/jobs",
        data=known,
        files={"file": (f"{name}.csv", file.encode(), "text/csv")},
        headers={"Idempotency-Key": name},
    )
    assert answer.status_code == 201, answer.text
    return Job(harness, answer.json()["data"]["id"], rows, name)


def done(job: Job) -> bool:
    """Return whether Postgres has all the job's rows and none of them is created or claimed."""
    stored = job.stored()
    return stored.total() == job.rows and not stored["created"] and not stored["claimed"]


def faults_of(job: Job, finished: Callable[[Job], bool] = done) -> dict[str, int]:
    """Wait until the job has finished, then count each kind of fault in its rows.

    An empty result means that every row was sent once. The figures go into REPORTS.
    """
    began = time.monotonic()
    job.harness.ready()
    until = began + QUIET_SECONDS
    while not finished(job) and time.monotonic() < until:
        time.sleep(1)
    booked, stored = job.booked(), job.stored()
    sql = """SELECT count(*) FROM events e JOIN notifications n USING (id)
        WHERE n.job_id = %s AND e.move = 'resent' AND e.made"""
    [(resent,)] = job.harness.stack.sql(sql, job.id)
    again = sum(count - 1 for count in booked.values())
    # The API caches the counts for a second, so they may agree only after a wait.
    wait(lambda: sum(job.shown()["counts"].values()) == job.rows, "the job's own counts")
    wrong = {
        "rows missing": job.rows - stored.total(),
        "unfinished": stored["created"] + stored["claimed"],
        "not booked": sum(not booked[f"row-{n}@{job.domain}"] for n in range(job.rows)),
        "strangers booked": len(booked) - job.rows if len(booked) > job.rows else 0,
        "unexplained": max(0, again - resent),
    }
    faults = {kind: count for kind, count in wrong.items() if count}
    REPORTS[f"{job.harness.fault} [job]"] = {
        "wrong": faults,
        "accepted": job.rows,
        "statuses": dict(stored),
        "p99_ms": "–",
        "explained duplicates": again,
        "inside calls": len(job.harness.in_open_calls),
        "quiet after s": round(time.monotonic() - began, 1),
    }
    return faults
