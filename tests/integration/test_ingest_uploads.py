"""Ingest accepts jobs as streamed files and as JSON, and writes every row to a real broker."""

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import UUID

import httpx2
import pytest
from confluent_kafka import Consumer, TopicPartition

from courant.contracts import Chunk, JobRecord, JobRow, Seal, decode_job
from courant.topics import JOBS
from integration.ingest_stack import Stack, stack
from support.ingest.uploads import BULK, FORM, bulk, fields, file, rows_of, table
from support.ingest.uploads import JOBS as ADDRESS
from support.ingest.world import EMAIL_TEMPLATE, api_key, email, service
from support.waiting import WAIT_SECONDS, wait

AUTHORIZED = {"authorization": f"ApiKey-v1 {api_key(1)}"}
HEADER = ["email address", "name", "reference"]
MANY = 1_000_000
MEMORY_MAX = 250  # MiB
BESIDE_MIN = 10  # Emails that must be accepted while a job is uploaded.
BESIDE_SECONDS = 0.5
"""The limit of the median answer to emails during an upload; `make bench` measures the others."""
UPLOAD_SECONDS = 900.0  # The timeout of a test that would never pass.


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as started:
        more = 10 * MANY
        started.publish(service(daily_email=more, annual_email=more, rate_limit=more, number=2))
        # 15,000 rows exceed the service's first limits, so ingest knows the new ones afterwards.
        wait(lambda: post(started, 15_000).status_code == 201)
        yield started


def rows(count: int) -> list[list[str]]:
    return [HEADER, *([f"a{n}@b.ca", f"Name {n}", f"r-{n}"] for n in range(count))]


def post(running: Stack, count: int, **headers: str) -> httpx2.Response:
    url, body = f"{running.base}{BULK}", bulk(rows=rows(count))
    return httpx2.post(url, json=body, headers={**AUTHORIZED, **headers}, timeout=UPLOAD_SECONDS)


def send(running: Stack, content: Iterator[bytes] | bytes, **headers: str) -> httpx2.Response:
    headers = {**AUTHORIZED, **FORM, **headers}
    return httpx2.post(
        f"{running.base}{ADDRESS}", content=content, headers=headers, timeout=UPLOAD_SECONDS
    )


def stream(count: int) -> Iterator[bytes]:
    """Yield an upload of `count` rows in pieces of 1,000 rows."""
    begin, end = file(table(HEADER) + "|").split(b"|")
    yield fields() + begin
    for start in range(0, count, 1_000):
        stop = min(start + 1_000, count)
        yield b"".join(b"a%d@b.ca,Name %d,r-%d\r\n" % (n, n, n) for n in range(start, stop))
    yield end + b"--a-boundary--\r\n"


def written(running: Stack, answer: httpx2.Response) -> tuple[Seal, list[JobRow]]:
    """Read the whole topic; return the seal of the answered job and the rows of its chunks."""
    assert answer.status_code == 201, answer.text
    job_id = UUID(answer.json()["data"]["id"])
    records = list(log(running))
    [seal] = [each for each in records if isinstance(each, Seal) and each.job_id == job_id]
    chunks = [each for each in records if isinstance(each, Chunk)]
    mine = [each for each in chunks if each.upload_id == seal.upload_id]
    return seal, rows_of(mine, seal)


def log(running: Stack) -> Iterator[JobRecord]:
    consumer = Consumer({"bootstrap.servers": running.broker.bootstrap, "group.id": "tests"})
    topic = running.cluster.topic(JOBS.name)
    partitions = [TopicPartition(topic, n, 0) for n in range(JOBS.partitions)]
    ends = {each.partition: consumer.get_watermark_offsets(each)[1] for each in partitions}
    consumer.assign(partitions)
    left = sum(ends.values())
    while left:
        message = consumer.poll(WAIT_SECONDS)
        assert message is not None
        assert not message.error()
        if message.offset() >= ends[message.partition()]:
            continue  # Written after the ends were read, so `left` does not count it.
        left -= 1
        record = decode_job(message.value())
        assert message.key() == getattr(record, "upload_id", UUID(int=0)).bytes
        yield record
    consumer.close()


def memory(running: Stack) -> float:
    """Return ingest's peak resident memory in MiB."""
    lines = Path(f"/proc/{running.ingest.pid}/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


class Beside:
    """Sends one email after another while the block runs, and measures each."""

    def __init__(self, running: Stack) -> None:
        self._url = f"{running.base}/v2/notifications/email"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.codes: set[int] = set()

    def _run(self) -> None:
        with httpx2.Client(headers=AUTHORIZED, timeout=UPLOAD_SECONDS) as client:
            while not self._stop.wait(0.01):
                answer = client.post(self._url, json=email())
                self.codes.add(answer.status_code)
                self.seconds.append(answer.elapsed.total_seconds())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def quantile(self, part: float) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * part)]


def test_an_uploaded_file_is_written_to_kafka_with_every_row(running: Stack) -> None:
    seal, found = written(running, send(running, stream(1_201)))
    assert (seal.chunks, seal.template_id) == (3, EMAIL_TEMPLATE)
    assert [(row.to, row.personalisation, row.reference) for row in found] == [
        (f"a{n}@b.ca", {"name": f"Name {n}"}, f"r-{n}") for n in range(1_201)
    ]


def test_50_000_rows_in_one_request_do_not_delay_emails(running: Stack) -> None:
    with Beside(running) as beside:
        began = time.monotonic()
        answer = post(running, 50_000)
        seconds = time.monotonic() - began
    seal, found = written(running, answer)
    assert (seal.chunks, len(found)) == (100, 50_000)
    assert [row.to for row in found] == [f"a{n}@b.ca" for n in range(50_000)]
    report("POST /bulk", 50_000, seconds, beside, memory(running))
    assert beside.codes == {201}
    assert beside.quantile(0.5) < BESIDE_SECONDS
    assert len(beside.seconds) >= BESIDE_MIN


def test_a_million_rows_stream_through_little_memory_and_do_not_delay_emails(
    running: Stack,
) -> None:
    with Beside(running) as beside:
        began = time.monotonic()
        answer = send(running, stream(MANY))
        seconds = time.monotonic() - began
    seal, found = written(running, answer)
    assert (seal.chunks, seal.rows) == (MANY // 500, MANY)
    assert all(row.reference == f"r-{n}" for n, row in enumerate(found))
    report("POST /v2/jobs", MANY, seconds, beside, memory(running))
    assert memory(running) < MEMORY_MAX
    assert beside.codes == {201}
    assert beside.quantile(0.5) < BESIDE_SECONDS
    assert len(beside.seconds) >= BESIDE_MIN


def report(endpoint: str, count: int, seconds: float, beside: Beside, memory_mib: float) -> None:
    client = resource.getrusage(resource.RUSAGE_SELF)
    print(  # noqa: T201  # pytest shows it with a failed test
        f"{endpoint}: {count} rows, {seconds:.1f} s, {count / seconds:,.0f} rows/s, ingest's peak "
        f"memory {memory_mib:.0f} MiB; beside it {len(beside.seconds)} emails, p50 "
        f"{beside.quantile(0.5) * 1e3:.0f} ms, p99 {beside.quantile(0.99) * 1e3:.0f} ms, at most "
        f"{max(beside.seconds) * 1e3:.0f} ms; the client's CPU {client.ru_utime:.0f} s"
    )


def test_a_repeated_idempotency_key_returns_the_first_job(running: Stack) -> None:
    by_rows = {"idempotency-key": "a key of mine"}
    first = post(running, 700, **by_rows)
    seal, _ = written(running, first)
    store(running, seal)
    again = post(running, 700, **by_rows)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert post(running, 701, **by_rows).status_code == 409
    by_file = {"idempotency-key": "another"}
    first = send(running, b"".join(stream(700)), **by_file)
    store(running, written(running, first)[0])
    again = send(running, stream(700), **by_file)
    assert (again.status_code, again.json()) == (201, first.json())
    assert send(running, stream(701), **by_file).status_code == 409


def store(running: Stack, seal: Seal) -> None:
    """Store a job and its Idempotency-Key as job-runner does."""
    running.sql(
        "INSERT INTO jobs (id, upload_id, chunks, rows, digest, service_id, key_id, key_type, "
        "template_id, template_version, channel, sender_id, name, accepted_at, scheduled_for) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        str(seal.job_id), str(seal.upload_id), seal.chunks, seal.rows, seal.digest,
        str(seal.service_id), str(seal.key_id), seal.key_type, str(seal.template_id),
        seal.template_version, seal.channel, seal.sender_id, seal.name, seal.accepted_at,
        seal.scheduled_for,
    )  # fmt: skip
    running.sql(
        "INSERT INTO idempotency (service_id, key_hash, id, body_hash) VALUES (%s, %s, %s, %s)",
        str(seal.service_id), seal.idempotency_key, str(seal.job_id), seal.body_hash,
    )  # fmt: skip


def test_a_client_that_disconnects_during_an_upload_leaves_no_job(running: Stack) -> None:
    before = seals(running)

    def broken() -> Iterator[bytes]:
        for number, piece in enumerate(stream(5_000)):
            if number == 4:
                raise ConnectionAbortedError
            yield piece

    with pytest.raises(ConnectionAbortedError):
        send(running, broken())
    assert send(running, stream(10)).status_code == 201  # The upload's slot is free again.
    assert seals(running) == before + 1


def seals(running: Stack) -> int:
    return sum(isinstance(each, Seal) for each in log(running))


def test_an_upload_is_answered_503_if_the_broker_freezes(running: Stack) -> None:
    before = seals(running)

    def freezing() -> Iterator[bytes]:
        for number, piece in enumerate(stream(20_000)):
            if number == 10:
                running.broker.freeze()
            yield piece

    try:
        answer = send(running, freezing())
    finally:
        running.broker.thaw()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    wait(lambda: post(running, 1).status_code == 201)
    # Chunks in flight may have been written, but a seal is sent only after all chunks.
    assert seals(running) == before + 1
