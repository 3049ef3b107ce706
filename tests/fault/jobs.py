"""A job under faults: its file, and what is asked about each of its rows at the end.

The file is the oracle: each of its recipients stands in the provider's ledger once.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from fault.site import REPORTS, Site
from support.waiting import WAIT_SECONDS, wait

QUIET_SECONDS = 420.0


@dataclass(frozen=True)
class Job:
    """A job, and the stack it was given to."""

    site: Site
    id: str
    rows: int
    name: str  # of the file, and in its recipients' domain

    @property
    def domain(self) -> str:
        return f"{self.name}.example.com"

    def shown(self) -> dict[str, Any]:
        """Ask the API about it."""
        answer = call(self.site, "GET", f"/v2/jobs/{self.id}")
        found: dict[str, Any] = answer.json()["data"]
        return found

    def booked(self) -> Counter[str]:
        """Count the provider's bookings of its recipients."""
        found = (each["to"] for each in self.site.stack.ledger())
        return Counter(to for to in found if to.endswith(f"@{self.domain}"))

    def stored(self) -> Counter[str]:
        """Count its rows by state, as Postgres has them."""
        sql = "SELECT state, count(*) FROM notifications WHERE job_id = %s GROUP BY state"
        return Counter(dict(self.site.stack.sql(sql, self.id)))

    def command(self, verb: str) -> None:
        assert call(self.site, "POST", f"/v2/jobs/{self.id}/{verb}").status_code == 202


def call(site: Site, method: str, path: str, **options: Any) -> httpx2.Response:
    """Call the API with the demo service's key; asks again while it answers 503."""
    key = site.stack.variables["COURANT_API_KEY"]
    headers = {"Authorization": f"ApiKey-v1 {key}", **options.pop("headers", {})}
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            answer = httpx2.request(
                method, site.stack.url + path, headers=headers, timeout=30, **options
            )
            if answer.status_code != 503:
                return answer
        except httpx2.HTTPError:
            pass
        assert time.monotonic() < until, f"{method} {path}"
        time.sleep(0.5)


def submit(site: Site, rows: int, name: str, **fields: str) -> Job:
    """Send a file of so many rows; its recipients bear its name."""
    lines = (f"row-{n}@{name}.example.com,Row {n}" for n in range(rows))
    file = "\n".join(["email address,name", *lines]) + "\n"
    known = {"template_id": site.stack.variables["COURANT_EMAIL_TEMPLATE_ID"], **fields}
    answer = call(
        site,
        "POST",
        "/v2/jobs",
        data=known,
        files={"file": (f"{name}.csv", file.encode(), "text/csv")},
        headers={"Idempotency-Key": name},
    )
    assert answer.status_code == 201, answer.text
    return Job(site, answer.json()["data"]["id"], rows, name)


def done(job: Job) -> bool:
    """Tell whether all its rows are there and none waits."""
    stored = job.stored()
    return stored.total() == job.rows and not stored["created"] and not stored["claimed"]


def questions(job: Job, finished: Callable[[Job], bool] = done) -> dict[str, int]:
    """Wait until the job is over, then count what must not be; notes what was seen."""
    began = time.monotonic()
    job.site.ready()
    until = began + QUIET_SECONDS
    while not finished(job) and time.monotonic() < until:
        time.sleep(1)
    booked, stored = job.booked(), job.stored()
    sql = """SELECT count(*) FROM events e JOIN notifications n USING (id)
        WHERE n.job_id = %s AND e.move = 'resent' AND e.made"""
    [(resent,)] = job.site.stack.sql(sql, job.id)
    again = sum(count - 1 for count in booked.values())
    # What the API shows is kept for a moment; it must come to agree.
    wait(lambda: sum(job.shown()["counts"].values()) == job.rows, "the job's own counts")
    wrong = {
        "rows missing": job.rows - stored.total(),
        "unfinished": stored["created"] + stored["claimed"],
        "not booked": sum(not booked[f"row-{n}@{job.domain}"] for n in range(job.rows)),
        "strangers booked": len(booked) - job.rows if len(booked) > job.rows else 0,
        "unexplained": max(0, again - resent),
    }
    found = {each: count for each, count in wrong.items() if count}
    REPORTS[f"{job.site.fault} [job]"] = {
        "wrong": found,
        "accepted": job.rows,
        "statuses": dict(stored),
        "p99_ms": "–",
        "explained duplicates": again,
        "inside calls": len(job.site.inside),
        "quiet after s": round(time.monotonic() - began, 1),
    }
    return found
