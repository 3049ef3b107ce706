"""Jobs: rows stored beside bare COPY, rows sent, a million rows taken, priority beside a job."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil

from bench.ceilings import bare_copy
from bench.drain import KINDS
from bench.inbox import accepted
from bench.latency import steady
from bench.ledger import Bookings
from bench.measurements import Measurement, beside, console, interleaved, middle
from bench.save import make_days
from bench.stack import BenchStack, bench_stack
from courant.contracts import Notification
from courant_cli.load import quantile

ROWS, SAVED_ROWS, UPLOAD_ROWS = 100_000, 50_000, 1_000_000
SENT_OF_UPLOAD = 100_000
SECONDS_MAX = 300.0
LOOK_SECONDS = 0.1
QUIET_SECONDS = 2.0
SAVED = "SELECT count(*) FROM notifications"
FINISHED = "SELECT finished_at IS NOT NULL FROM jobs WHERE id = %s"
FREE = {"JOB_RUNNER_LAG_SECONDS": "0"}
MIB = 2**20


def measure() -> list[Measurement]:
    """Measure each part by itself."""
    with bench_stack() as stack:
        return [saved(stack), *sent(stack), upload(stack)]


def saved(stack: BenchStack) -> Measurement:
    """Measure from the seal's acknowledgement to the last stored row, without back-pressure."""
    rows = [Notification.decode(each.value) for each in accepted(stack, stack.personal, SAVED_ROWS)]
    make_days(stack, rows)
    copies = bare_copy.batches(rows)

    def ours() -> float:
        empty(stack)
        with stack.running("ingest", "saver", "job-runner", **FREE):
            time.sleep(QUIET_SECONDS)
            submit(stack, SAVED_ROWS)
            began = time.perf_counter()
            wait(stack, SAVED, SAVED_ROWS)
            return SAVED_ROWS / (time.perf_counter() - began)

    def bare() -> float:
        empty(stack)
        return SAVED_ROWS / bare_copy.save(stack.plan.database_url, copies)

    found = interleaved({"job": ours, "bare COPY": bare})
    return beside("job saved", "rows/s", "≥ 10,000", found["job"], found["bare COPY"])


def sent(stack: BenchStack) -> list[Measurement]:
    """Measure from the seal to the last booked row, with back-pressure and priority beside it."""
    idle, beside_job, rates = [], [], []
    with stack.running("sandbox", *KINDS):
        for number in range(3):
            idle.append(1000 * quantile(steady(stack, stack.urgent), 0.99))
            empty(stack)
            bookings = Bookings(stack.plan.ledger)
            began = time.perf_counter()
            submit(stack, ROWS)
            sealed = time.perf_counter()
            beside_job.append(1000 * quantile(steady(stack, stack.urgent), 0.99))
            bookings.wait_at_least(ROWS, SECONDS_MAX)
            rates.append(ROWS / (time.perf_counter() - sealed))
            console.print(
                f"  round {number + 1}: taken in {sealed - began:.1f} s, {rates[-1]:,.0f} sent/s, "
                f"priority p99 {idle[-1]:.0f} ms idle, {beside_job[-1]:.0f} ms beside the job"
            )
    return [
        Measurement("job sent", "rows/s", "≥ 2,000", middle(rates), more={"rounds": rates}),
        Measurement(
            "priority p99 beside a job",
            "ms",
            "≤ 250",
            middle(beside_job, 1),
            more={"idle_ms": middle(idle, 1)},
        ),
    ]


def upload(stack: BenchStack) -> Measurement:
    """Measure the upload of a million rows while the first are sent, and the peak memory."""
    empty(stack)
    with stack.running("sandbox", *KINDS) as services:
        bookings = Bookings(stack.plan.ledger)
        began = time.perf_counter()
        job_id = submit(stack, UPLOAD_ROWS)
        rate = UPLOAD_ROWS / (time.perf_counter() - began)
        bookings.wait_at_least(SENT_OF_UPLOAD, SECONDS_MAX)
        call(stack, "POST", f"/v2/jobs/{job_id}/cancel")
        peaks = {kind: peak_mib(services[kind]) for kind in ("ingest", "job-runner")}
    console.print(f"  {rate:,.0f} rows/s taken; at most, in MiB: {peaks}")
    return Measurement(
        "job taken", "rows/s", "memory ≤ 250 MB", round(rate), more={"peak_mib": peaks}
    )


def empty(stack: BenchStack) -> None:
    """Delete the rows of earlier rounds."""
    stack.sql("TRUNCATE jobs, chunks, wishes")
    stack.empty()


def submit(stack: BenchStack, rows: int) -> str:
    """Upload a file of that many rows; return the job's id once it is answered 201."""
    fields = {"template_id": str(stack.personal.id), "name": "bench.csv"}
    # A file on disk, because the client streams it as it would a large one.
    file = Path(stack.plan.home) / "bench.csv"
    with file.open("w") as written:
        written.writelines(lines(rows))
    with file.open("rb") as read:
        answer = call(stack, "POST", "/v2/jobs", data=fields, files={"file": read})
    return str(answer["data"]["id"])


def lines(rows: int) -> Iterator[str]:
    """Write the file's lines."""
    yield "email address,name\n"
    for number in range(rows):
        yield f"recipient-{number}@example.com,Recipient {number}\n"


def call(
    stack: BenchStack, method: str, path: str, **options: object
) -> dict[str, dict[str, object]]:
    """Call the API; raises unless the answer is a success."""
    headers = {"Authorization": f"ApiKey-v1 {stack.key}"}
    answer = httpx2.request(
        method, stack.plan.url + path, headers=headers, timeout=SECONDS_MAX, **options
    )  # type: ignore[arg-type]  # httpx2's many
    assert answer.is_success, answer.text[:500]
    found: dict[str, dict[str, object]] = answer.json()
    return found


def wait(stack: BenchStack, sql: str, count: int) -> None:
    """Return once Postgres counts that many."""
    until = time.monotonic() + SECONDS_MAX
    while (found := stack.sql(sql)[0][0]) < count:
        assert time.monotonic() < until, f"{found} of {count}: {sql}"
        time.sleep(LOOK_SECONDS)


def peak_mib(process: psutil.Process) -> int:
    """Return the peak memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return round(int(line.split()[1]) * 1024 / MIB)
