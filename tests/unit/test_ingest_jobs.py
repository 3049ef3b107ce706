"""Jobs as their owners read and command them, and their reports."""

import asyncio
import csv
import io
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest

from courant import bulk, ids
from courant.contracts import Command, Content, JobCommand, JobRow, KeyType, decode_job
from courant.lifecycle import State
from courant.topics import Channel
from ingest.http import slow_clients, streaming
from ingest.jobs import rules
from ingest.jobs.rows import Job, JobCounts
from ingest.jobs.store import CountCache, StoredRow
from support.ingest.jobs import KEY, NOW, TEMPLATE, ChunkRow, job
from support.ingest.world import (
    BASE,
    NUMBERS,
    RING,
    SERVICE,
    World,
    api_key,
    key,
    messages,
    service,
)

LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
DONE = {"started_at": EARLIER, "finished_at": NOW}
GONE = {"chunks": 2, "stored_at": NOW - timedelta(seconds=61)}
STATUSES: list[tuple[dict[str, Any], bool, str]] = [
    ({}, True, "pending"),
    ({"scheduled_for": LATER}, True, "scheduled"),
    ({"scheduled_for": NOW}, True, "pending"),
    ({"started_at": NOW}, True, "in progress"),
    ({"started_at": NOW, "scheduled_for": LATER}, False, "in progress"),
    (DONE, False, "in progress"),
    (DONE, True, "finished"),
    ({"chunks": 2}, True, "pending"),
    ({"chunks": 2, "stored_at": NOW - timedelta(seconds=60)}, True, "pending"),
    (GONE, True, "error"),
    ({**GONE, "scheduled_for": LATER}, True, "error"),
    ({**GONE, "command": Command.PAUSED}, True, "error"),
    ({**GONE, **DONE}, True, "finished"),  # its chunks are not needed any more
    ({"command": Command.PAUSED}, True, "paused"),
    ({"command": Command.PAUSED, "scheduled_for": LATER}, True, "paused"),
    ({"command": Command.PAUSED, "started_at": NOW}, False, "paused"),
    ({"command": Command.PAUSED, **DONE}, False, "paused"),
    ({"command": Command.PAUSED, **DONE}, True, "finished"),
    ({"command": Command.RESUMED}, True, "pending"),
    ({"command": Command.RESUMED, "started_at": NOW}, False, "in progress"),
    ({"command": Command.CANCELLED}, True, "cancelled"),
    ({"command": Command.CANCELLED, **DONE}, False, "cancelled"),
    ({"command": Command.CANCELLED, **GONE}, True, "cancelled"),
]


@pytest.mark.parametrize(("columns", "nothing_to_send", "expected"), STATUSES)
def test_a_jobs_status_follows_from_its_row_and_its_command(
    columns: dict[str, Any], nothing_to_send: bool, expected: str
) -> None:
    assert rules.status(job(RING, **columns), nothing_to_send) == expected


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        ("finished", {"cancelled", "paused", "resumed"}),
        ("cancelled", {"paused", "resumed"}),
        ("pending", set()),
        ("scheduled", set()),
        ("in progress", set()),
        ("paused", set()),
        ("error", set()),
    ],
)
def test_only_finished_and_cancelled_jobs_refuse_a_command(status: str, refused: set[str]) -> None:
    assert {str(each) for each in Command if rules.check_command(status, each)} == refused


def test_unstored_rows_are_pending_until_the_job_is_cancelled() -> None:
    counts = JobCounts({State.CREATED: 3, State.CLAIMED: 2, State.DELIVERED: 4}, 0, 0, NOW)
    given = job(RING, rows=20)
    told = rules.progress(given, counts, "in progress")
    assert told["counts"] == {"created": 3, "sending": 2, "delivered": 4, "pending": 11}
    assert told["saved"] == 9
    counts = JobCounts({State.CANCELLED: 3}, 0, 0, NOW)
    told = rules.progress(replace(given, command=Command.CANCELLED), counts, "cancelled")
    assert told["counts"] == {"cancelled": 20}


def test_rows_that_retention_removed_from_a_finished_job_are_not_pending() -> None:
    counts = JobCounts({State.DELIVERED: 4}, 0, 0, NOW)
    told = rules.progress(job(RING, rows=20, **DONE), counts, "finished")
    assert (told["counts"], told["saved"]) == ({"delivered": 4}, 4)
    told = rules.progress(job(RING, rows=20, **DONE), JobCounts({}, 0, 0, NOW), "finished")
    assert told["counts"] == {}
    cancelled = job(RING, rows=20, command=Command.CANCELLED, **DONE)
    assert rules.progress(cancelled, counts, "cancelled")["counts"] == {
        "delivered": 4,
        "cancelled": 16,
    }


def test_a_report_says_which_rows_retention_removed() -> None:
    world = World()
    given = world.jobs.put(job(RING, **DONE))
    world.jobs.rows[given.id] = [stored(given, 2, state=State.DELIVERED)]
    [_, gone, kept] = lines(world.call("GET", f"/v2/jobs/{given.id}/report"))
    assert gone == ["1", "", "", "", "", "No longer kept", "", "", ""]
    assert kept[4] == "delivered"


def test_states_of_an_sms_have_the_apis_names() -> None:
    counts = JobCounts({State.SENDING: 3, State.SENT: 2, State.CLAIMED: 1}, 6, 6, NOW)
    told = rules.progress(job(RING, rows=6, channel=Channel.SMS), counts, "in progress")
    assert told["counts"] == {"sent": 5, "sending": 1}


@pytest.mark.parametrize(
    ("settled", "recent", "status", "rate", "finish"),
    [
        (400, 300, "in progress", 10.0, "2026-05-06T12:01:00.000000+00:00"),
        (400, 0, "in progress", 0.0, None),
        (1000, 300, "in progress", 10.0, None),
        (400, 300, "paused", 10.0, None),
        (400, 300, "cancelled", 10.0, None),
    ],
)
def test_the_finish_is_estimated_from_the_rate_of_the_last_half_minute(
    settled: int, recent: int, status: str, rate: float, finish: str | None
) -> None:
    told = rules.progress(job(RING, rows=1000), JobCounts({}, settled, recent, NOW), status)
    assert (told["rows_per_second"], told["estimated_finish"]) == (rate, finish)


def stored(given: Job, number: int, to: str = "a@example.com", **more: Any) -> StoredRow:
    id = ids.of_row(given.id, number)
    content = msgspec.json.encode(Content(to=to, personalisation={"name": "x"}))
    told = StoredRow(
        job_row=number,
        id=id,
        sealed=RING.encrypt(content, owner=id.bytes),
        reference=None,
        state=State.CREATED,
        state_at=NOW,
        sent_at=None,
        reason=None,
        response=None,
    )
    return replace(told, **more)


def chunk(given: Job, number: int, first: int, *rows: JobRow) -> ChunkRow:
    packed = bulk.pack(RING, given.upload_id, number, first, rows)
    return ChunkRow(number, first, len(rows), packed.sealed)


def waiting(to: str, reference: str | None = None) -> JobRow:
    return JobRow(to=to, recipient_hash=b"h", reference=reference)


def test_a_job_is_shown_with_the_keys_of_its_201_and_its_progress() -> None:
    world = World()
    given = world.jobs.put(job(RING, started_at=NOW, scheduled_for=EARLIER))
    world.jobs.rows[given.id] = [stored(given, 1, state=State.DELIVERED)]
    settled = chunk(given, 0, 1, waiting("a@example.com"))
    world.jobs.chunks[given.id] = [replace(settled, settled_at=NOW - timedelta(seconds=1))]
    answer = world.call("GET", f"/v2/jobs/{given.id}")
    assert answer.status_code == 200
    assert answer.json() == {
        "data": {
            "id": str(given.id),
            "created_at": "2026-05-06T11:59:59.000000+00:00",
            "updated_at": "2026-05-06T12:00:00.000000+00:00",
            "notification_count": 2,
            "original_file_name": "list.csv",
            "job_status": "in progress",
            "scheduled_for": "2026-05-06T11:00:00.000000+00:00",
            "template": str(TEMPLATE),
            "template_version": 1,
            "template_type": "email",
            "service": str(SERVICE),
            "service_name": {"name": "Conf"},
            "api_key": {"id": str(KEY), "name": "a key-1", "key_type": "normal"},
            "created_by": {
                "id": "6af522d0-2915-4e52-83a3-3690455a5fe6",
                "name": "Notify service user",
            },
            "sender_id": None,
            "processing_started": "2026-05-06T12:00:00.000000+00:00",
            "processing_finished": None,
            "archived": False,
            "counts": {"delivered": 1, "pending": 1},
            "saved": 1,
            "rows_per_second": 0.0,
            "estimated_finish": "2026-05-06T12:00:30.000000+00:00",
        }
    }


def test_a_missing_job_is_404_only_if_it_is_certain_that_there_is_none() -> None:
    world = World()
    for path in ("", "/report"):
        answer = world.call("GET", f"/v2/jobs/{uuid4()}{path}")
        assert answer.status_code == 404
        assert answer.json() == {
            "status_code": 404,
            "errors": [{"error": "NoResultFound", "message": "No result found"}],
        }
    world.jobs.certain = False
    id = ids.new(NOW)
    answer = world.call("GET", f"/v2/jobs/{id}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    world.jobs.works = False
    for path in ("/v2/jobs", f"/v2/jobs/{id}", f"/v2/jobs/{id}/report"):
        assert world.call("GET", path).status_code == 503
    assert world.call("GET", f"/v2/jobs/{uuid4()}").status_code == 404  # ingest made no such id
    assert messages(world.call("GET", "/v2/jobs/x")) == ["job_id is not a valid UUID"]
    assert world.call("GET", "/v2/jobs/x", headers={"authorization": ""}).status_code == 401


def test_a_list_has_the_jobs_of_the_keys_own_type_newest_first() -> None:
    world = World()
    made = [world.jobs.put(job(RING, id=ids.new(NOW + timedelta(seconds=n)))) for n in range(3)]
    other = world.jobs.put(job(RING, key_type=KeyType.TEST))
    told = world.call("GET", "/v2/jobs").json()
    assert [each["id"] for each in told["jobs"]] == [str(each.id) for each in reversed(made)]
    assert told["links"] == {
        "current": f"{BASE}/v2/jobs",
        "next": f"{BASE}/v2/jobs?older_than={made[0].id}",
    }
    older = world.call("GET", f"/v2/jobs?older_than={made[1].id}").json()
    assert [each["id"] for each in older["jobs"]] == [str(made[0].id)]
    assert older["links"]["current"] == f"{BASE}/v2/jobs?older_than={made[1].id}"
    end = world.call("GET", f"/v2/jobs?older_than={made[0].id}").json()
    assert (end["jobs"], "next" in end["links"]) == ([], False)
    key = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[KeyType.TEST])}"}
    [own] = world.call("GET", "/v2/jobs", headers=key).json()["jobs"]
    assert own["id"] == str(other.id)
    assert world.call("GET", f"/v2/jobs/{other.id}").status_code == 404
    assert messages(world.call("GET", "/v2/jobs?older_than=x&status=y")) == [
        "older_than is not a valid UUID",
        "Additional properties are not allowed (status was unexpected)",
    ]


def test_a_list_shows_no_job_as_finished_while_a_row_waits_to_be_sent() -> None:
    world = World()
    given = world.jobs.put(job(RING, **DONE))
    world.jobs.rows[given.id] = [stored(given, 1, state=State.CLAIMED)]
    [told] = world.call("GET", "/v2/jobs").json()["jobs"]
    assert told["job_status"] == "in progress"
    world.jobs.rows[given.id] = [stored(given, 1, state=State.SENDING)]
    [told] = world.call("GET", "/v2/jobs").json()["jobs"]
    assert told["job_status"] == "finished"


def wanted(world: World) -> list[JobCommand]:
    found = [(each.topic, each.key, decode_job(each.value)) for each in world.log.records]
    for topic, by, record in found:
        assert isinstance(record, JobCommand)
        assert (topic, by) == ("jobs", record.job_id.bytes)
    return [record for _, _, record in found if isinstance(record, JobCommand)]


@pytest.mark.parametrize(
    ("verb", "command", "status", "counts"),
    [
        ("cancel", Command.CANCELLED, "cancelled", {"cancelled": 2}),
        ("pause", Command.PAUSED, "paused", {"pending": 2}),
        ("resume", Command.RESUMED, "pending", {"pending": 2}),
    ],
)
def test_a_command_is_written_to_the_log_and_answered_with_the_status_it_leads_to(
    verb: str, command: Command, status: str, counts: dict[str, int]
) -> None:
    world = World()
    given = world.jobs.put(job(RING))
    for _ in range(2):
        answer = world.call("POST", f"/v2/jobs/{given.id}/{verb}")
        assert answer.status_code == 202
        told = answer.json()["data"]
        assert (told["job_status"], told["counts"]) == (status, counts)
    assert [(each.job_id, each.command) for each in wanted(world)] == [(given.id, command)] * 2


def test_a_written_command_is_answered_202_although_counting_fails() -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=5, started_at=NOW))
    world.jobs.counts = False
    answer = world.call("POST", f"/v2/jobs/{given.id}/pause")
    assert answer.status_code == 202
    told = answer.json()["data"]
    assert (told["job_status"], told["notification_count"]) == ("paused", 5)
    assert not {"counts", "saved", "rows_per_second", "estimated_finish"} & set(told)
    assert [each.command for each in wanted(world)] == [Command.PAUSED]
    assert world.call("GET", f"/v2/jobs/{given.id}").status_code == 503
    waits = world.jobs.put(job(RING, **DONE))
    world.jobs.rows[waits.id] = [stored(waits, 1)]
    answer = world.call("POST", f"/v2/jobs/{waits.id}/resume")
    assert (answer.status_code, answer.json()["data"]["job_status"]) == (202, "in progress")


def test_a_refused_command_is_not_written() -> None:
    world = World()
    finished = world.jobs.put(job(RING, **DONE))
    cancelled = world.jobs.put(job(RING, command=Command.CANCELLED))
    answer = world.call("POST", f"/v2/jobs/{finished.id}/cancel")
    assert (answer.status_code, messages(answer)) == (409, ["The job has finished"])
    answer = world.call("POST", f"/v2/jobs/{cancelled.id}/resume")
    assert answer.status_code == 409
    assert messages(answer) == ["The job is cancelled, which is for good"]
    stranger = world.jobs.put(job(RING, key_type=KeyType.TEST))
    assert world.call("POST", f"/v2/jobs/{stranger.id}/cancel").status_code == 404
    assert world.call("GET", f"/v2/jobs/{finished.id}/cancel").status_code == 405
    assert wanted(world) == []
    assert world.call("POST", f"/v2/jobs/{cancelled.id}/cancel").status_code == 202
    assert [each.job_id for each in wanted(world)] == [cancelled.id]


def test_a_command_without_an_acknowledgement_is_answered_503() -> None:
    world = World()
    given = world.jobs.put(job(RING))
    world.log.stand_still(deadline_seconds=0)
    answer = world.call("POST", f"/v2/jobs/{given.id}/cancel")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def lines(answer: httpx2.Response) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer.text, newline="")))


HEAD = [
    "row number", "recipient", "reference", "notification id", "status", "status description",
    "provider response", "sent at", "completed at",
]  # fmt: skip


def test_a_report_has_every_row_of_the_file_in_its_order() -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=5, chunks=3))
    done = stored(given, 2, "b@example.com", state=State.DELIVERED, sent_at=EARLIER, reference="r")
    bounced = {"state": State.PERMANENT_FAILURE, "response": "=1+1", "reason": "hard-bounce/x"}
    world.jobs.rows[given.id] = [stored(given, 3, "c,\n@example.com", **bounced), done]
    world.jobs.chunks[given.id] = [
        chunk(given, 0, 1, waiting("a@example.com", "first"), waiting("b@example.com")),
        chunk(given, 1, 3, waiting("c@example.com"), waiting("+16135550100")),
        # A chunk is encrypted for its number: this one cannot be decrypted.
        replace(chunk(given, 2, 5, waiting("e@example.com")), number=7),
    ]
    answer = world.call("GET", f"/v2/jobs/{given.id}/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == f'attachment; filename="job-{given.id}.csv"'
    assert "content-length" not in answer.headers
    wait, at = ["", "pending", "Waits for its turn", "", "", ""], "2026-05-06T12:00:00.000000Z"
    assert lines(answer) == [
        HEAD,
        ["1", "a@example.com", "first", *wait],
        ["2", "b@example.com", "r", str(done.id), "delivered", "Delivered", "",
         "2026-05-06T11:00:00.000000Z", at],
        ["3", "c,\n@example.com", "", str(ids.of_row(given.id, 3)), "permanent-failure",
         "No such address", "'=1+1", "", at],
        ["4", "'+16135550100", "", *wait],
        ["5", "", "", *wait],
    ]  # fmt: skip
    read = world.jobs.reads
    assert world.call("HEAD", f"/v2/jobs/{given.id}/report").status_code == 200
    assert world.jobs.reads == read
    world.jobs.put(replace(given, command=Command.CANCELLED))
    told = lines(world.call("GET", f"/v2/jobs/{given.id}/report"))
    assert [row[4] for row in told[1:]] == [
        "cancelled", "delivered", "permanent-failure", "cancelled", "cancelled",
    ]  # fmt: skip


@pytest.mark.parametrize("first", list("=+-@\t\r\n＝＋－＠"))
def test_no_cell_of_a_report_is_a_formula(first: str) -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=2))
    evil = f"{first}cmd|' /C calc'!A0"
    world.jobs.rows[given.id] = [stored(given, 1, evil, reference=evil, response=evil)]
    world.jobs.chunks[given.id] = [chunk(given, 0, 1, waiting("x"), waiting(evil, evil))]
    [_, one, two] = lines(world.call("GET", f"/v2/jobs/{given.id}/report"))
    assert (one[1], one[2], one[6], two[1], two[2]) == (f"'{evil}",) * 5


def test_a_report_is_read_a_thousand_rows_at_a_time() -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=2_001))
    told = lines(world.call("GET", f"/v2/jobs/{given.id}/report"))
    assert [row[0] for row in told[1:]] == [str(n) for n in range(1, 2_002)]
    assert world.jobs.reads == 3


def test_a_report_of_no_rows_is_its_header() -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=0, chunks=1))
    assert lines(world.call("GET", f"/v2/jobs/{given.id}/report")) == [HEAD]


async def served(
    world: World, path: str, takes: int = 10**9, by: str = api_key(1), pause: float = 0.0
) -> list[dict[str, Any]]:
    """Call the app as a server does, for a client that reads `takes` messages and then stops."""
    sent: list[dict[str, Any]] = []
    inbox = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not inbox:
            await asyncio.Event().wait()
        return inbox.pop()

    async def send(message: Any) -> None:
        if len(sent) == takes:
            await asyncio.Event().wait()
        await asyncio.sleep(pause)
        sent.append(message)

    headers = [(b"authorization", f"ApiKey-v1 {by}".encode())]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"",
             "headers": headers}  # fmt: skip
    await world.app(scope, receive, send)
    return sent


def test_a_report_that_breaks_off_never_looks_complete() -> None:
    world = World()
    given = world.jobs.put(job(RING, rows=5_000))
    world.jobs.away_after = 2
    sent = asyncio.run(served(world, f"/v2/jobs/{given.id}/report"))
    assert sent[0]["status"] == 200
    assert len(sent) == 4  # the start, the header, two parts
    assert all(each["more_body"] for each in sent[1:])
    assert world.app.in_flight == 0


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.1)
    world = World()
    given = world.jobs.put(job(RING, rows=5_000))
    sent = asyncio.run(served(world, f"/v2/jobs/{given.id}/report", takes=3))
    assert (len(sent), sent[-1]["more_body"], world.app.in_flight) == (3, True, 0)


def test_a_client_that_reads_too_slowly_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_clients, "WAIT_SECONDS", 0.1)
    world = World()
    given = world.jobs.put(job(RING, rows=100_000))
    sent = asyncio.run(served(world, f"/v2/jobs/{given.id}/report", pause=0.06))
    assert 3 <= len(sent) <= 5
    assert (sent[-1]["more_body"], world.app.in_flight) == (True, 0)


STRANGER = UUID(int=0x5E2)
OURS, THEIRS = api_key(1), api_key(9, STRANGER)


def crowded() -> tuple[World, str, str]:
    """Return a world with two services, and the path of a report for each of them."""
    world = World()
    world.change(service(id=STRANGER))
    world.change(key(9, KeyType.NORMAL, STRANGER))
    ours = world.jobs.put(job(RING, rows=5_000))
    theirs = world.jobs.put(job(RING, rows=5_000), STRANGER)
    return world, f"/v2/jobs/{ours.id}/report", f"/v2/jobs/{theirs.id}/report"


async def status(world: World, path: str, caller: str, method: str = "GET") -> int:
    async with world.client() as client:
        headers = {"authorization": f"ApiKey-v1 {caller}"}
        return (await client.request(method, path, headers=headers)).status_code


def test_reports_at_once_are_bounded_and_one_service_has_at_most_half_of_the_slots() -> None:
    world, path, other = crowded()

    async def both() -> list[int]:
        return [await status(world, path, OURS), await status(world, other, THEIRS)]

    async def crowd() -> httpx2.Response:
        # The client reads the header and no part.
        held = [asyncio.create_task(served(world, path, takes=2)) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert await both() == [503, 200]
        held += [asyncio.create_task(served(world, other, takes=2, by=THEIRS)) for _ in range(4)]
        await asyncio.sleep(0.05)
        async with world.client() as client:
            headers = {"authorization": f"ApiKey-v1 {THEIRS}"}
            answer = await client.get(other, headers=headers)
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await both() == [200, 200]
        return answer

    answer = asyncio.run(crowd())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert messages(answer) == ["Too many reports are being written, try again"]


def test_reports_requested_at_one_moment_are_bounded_too() -> None:
    world, path, _ = crowded()
    world.jobs.release = asyncio.Event()

    async def crowd() -> list[int]:
        asked = [asyncio.create_task(status(world, path, OURS)) for _ in range(9)]
        await asyncio.sleep(0.05)
        world.jobs.release.set()
        return sorted(await asyncio.gather(*asked))

    assert asyncio.run(crowd()) == [200] * 4 + [503] * 5


def test_a_report_that_is_not_written_releases_its_slot() -> None:
    world, path, _ = crowded()

    async def ask() -> list[int]:
        found = []
        for _ in range(5):
            found.append(await status(world, path, OURS, method="HEAD"))
            found.append(await status(world, f"/v2/jobs/{uuid4()}/report", OURS))
            found.append(await status(world, "/v2/jobs/x/report", OURS))
        # A client that disconnects before the header is sent.
        for _ in range(5):
            lost = asyncio.create_task(served(world, path, takes=0))
            await asyncio.sleep(0.01)
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
        return [*found, await status(world, path, OURS)]

    assert asyncio.run(ask()) == [200, 404, 400] * 5 + [200]


def test_counts_are_cached_ten_times_as_long_as_counting_took_and_counted_once() -> None:
    clock, asked = [0.0], []

    async def count(given: Job) -> JobCounts:
        asked.append(given.id)
        await asyncio.sleep(0)
        clock[0] += 0.5
        return JobCounts({}, len(asked), 0, NOW)

    async def ask() -> list[int]:
        kept, given = CountCache(count, lambda: clock[0]), job(RING)
        found = [each.settled for each in await asyncio.gather(*(kept.count(given) for _ in "abc"))]
        for now in (0.6, 5.4, 5.6):
            clock[0] = now
            found.append((await kept.count(given)).settled)
        return found

    assert asyncio.run(ask()) == [1, 1, 1, 1, 1, 2]


def test_a_count_that_failed_is_not_cached() -> None:
    fails = [True]

    async def count(_: Job) -> JobCounts:
        if fails.pop() if fails else False:
            raise RuntimeError("away")
        return JobCounts({}, 7, 0, NOW)

    async def ask() -> int:
        kept, given = CountCache(count), job(RING)
        with pytest.raises(RuntimeError):
            await kept.count(given)
        return (await kept.count(given)).settled

    assert asyncio.run(ask()) == 7


def test_the_description_lists_the_answers_of_jobs() -> None:
    paths = World().call("GET", "/openapi.json").json()["paths"]
    assert "get" in paths["/v2/jobs"]
    assert {"202", "404", "409"} <= set(paths["/v2/jobs/{job_id}/cancel"]["post"]["responses"])
    report = paths["/v2/jobs/{job_id}/report"]["get"]["responses"]["200"]
    assert "text/csv" in report["content"]
