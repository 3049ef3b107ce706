"""Accepting jobs: the order of the errors, and the records in the log after a 201."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest

from courant import ids
from courant.contracts import Command, KeyType
from courant.directory.entries import Sender
from courant.topics import Channel
from support.ingest.jobs import NOW
from support.ingest.uploads import (
    BULK,
    FORM,
    JOBS,
    TEMPLATES,
    bulk,
    error_text,
    fields,
    file,
    form,
    good,
    job,
    send,
    table,
    upload,
)
from support.ingest.world import (
    NUMBERS,
    RING,
    SERVICE,
    World,
    api_key,
    email,
    key,
    messages,
    service,
    template,
)
from support.waiting import WAIT_SECONDS

EMAIL, SMS = Channel.EMAIL, Channel.SMS
BOTH_WAYS = pytest.mark.parametrize("way", ["rows", "csv", "file"])
NO_SUCH = "11111111-1111-4111-8111-111111111111"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"
TEAM = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[KeyType.TEAM])}"}
TEST = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[KeyType.TEST])}"}


def ask(
    world: World, way: str, rows: list[Any], channel: Channel = EMAIL, **headers: str
) -> httpx2.Response:
    """Send rows of plain cells in one of three ways."""
    if way == "file":
        return upload(world, table(*rows), channel, **headers)
    given = {"rows": rows} if way == "rows" else {"csv": table(*rows)}
    return world.post(BULK, bulk(channel, **given), **headers)


@BOTH_WAYS
def test_a_job_is_written_as_chunks_and_a_seal_and_answered_with_its_data(way: str) -> None:
    world = World()
    answer = ask(world, way, good(SMS), SMS)
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    assert list(data) == [
        "id", "created_at", "updated_at", "notification_count", "original_file_name",
        "job_status", "scheduled_for", "template", "template_version", "template_type", "service",
        "service_name", "api_key", "created_by", "sender_id", "processing_started",
        "processing_finished", "archived",
    ]  # fmt: skip
    seal, rows = job(world)
    sender = UUID(int=(0x5E << 64) + 1)
    name = "people.csv" if way == "file" else "a job"
    assert (data["id"], data["sender_id"]) == (str(seal.job_id), str(sender))
    assert (data["notification_count"], data["original_file_name"]) == (2, name)
    assert (data["job_status"], data["template_type"]) == ("pending", "sms")
    assert re.fullmatch(TIME, data["created_at"])
    assert RING.decrypt(seal.name, owner=seal.job_id.bytes).decode() == name
    assert (seal.channel, seal.sender_id, seal.key_type) == (SMS, sender, KeyType.NORMAL)
    assert (seal.service_id, seal.template_version) == (SERVICE, 1)
    assert ids.time_of(seal.job_id)
    assert [(row.to, row.personalisation) for row in rows] == [
        ("+16135550199", {"name": "Zoë"}),
        ("613-555-0123", {"name": "Bo"}),
    ]


@BOTH_WAYS
def test_many_rows_become_chunks_of_500_in_the_files_order(way: str) -> None:
    world = World()
    rows = [["email address", "name"], *([f"a{n}@b.ca", str(n)] for n in range(1_234))]
    assert ask(world, way, rows).status_code == 201
    seal, found = job(world)
    assert seal.chunks == 3
    assert [row.to for row in found] == [f"a{n}@b.ca" for n in range(1_234)]


def test_large_rows_become_chunks_of_few_rows() -> None:
    world = World()
    rows = [["email address", "name"], *([f"a{n}@b.ca", "é" * 50_000] for n in range(20))]
    assert ask(world, "file", rows).status_code == 201
    seal, found = job(world)
    assert seal.chunks == 4  # each row has 100,000 bytes, a chunk at most 512 KiB
    assert len(found) == 20


@pytest.mark.parametrize("way", ["csv", "file"])
def test_a_header_alone_makes_a_job_of_no_rows(way: str) -> None:
    world = World()
    answer = ask(world, way, [["email address", "name"]])
    assert (answer.status_code, answer.json()["data"]["notification_count"]) == (201, 0)
    seal, rows = job(world)
    assert (seal.chunks, seal.rows, rows) == (0, 0, [])


@BOTH_WAYS
def test_a_suspended_service_is_refused_before_its_form_is_checked(way: str) -> None:
    world = World()
    world.change(service(active=False))
    answer = ask(world, way, [["x"], ["y"]])
    assert (answer.status_code, error_text(answer)) == (403, "Service is suspended")


UNFIT: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": None}, ["name None is not of type string"]),
    ({"name": "a\0"}, ["name must not contain NUL characters"]),
    ({"name": "x" * 1001}, [f"name {'x' * 500}… is too long"]),
    ({"rows": 5}, ["rows 5 is not of type array"]),
    ({"rows": []}, ["rows [] is too short"]),
    ({"rows": [["a", "b"]]}, ["rows [[a, b]] is too short"]),
    ({"csv": 7}, ["csv 7 is not of type string"]),
    ({"reference": 7}, ["reference 7 is not of type string"]),
    ({"reply_to_id": "x"}, ["reply_to_id is not a valid UUID"]),
    ({"scheduled_for": 7}, ["scheduled_for 7 is not of type string, null"]),
    ({"x": 1, "z": 2}, ["Additional properties are not allowed (x, z were unexpected)"]),
    (
        {"template_id": 5, "rows": {}},
        ["template_id is not a valid UUID", "rows {} is not of type array"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("more", "wanted"), UNFIT, ids=str)
def test_one_answer_lists_all_errors_of_a_form(more: dict[str, Any], wanted: list[str]) -> None:
    answer = World().post(BULK, bulk(**more))
    assert (answer.status_code, messages(answer)) == (400, wanted)


def test_a_body_that_is_no_object_is_refused_as_for_single_requests() -> None:
    world = World()
    json = {"content-type": "application/json"}
    for body in (
        b"",
        b"\xff",
        b"{",
        b'{"rows": [["\\ud800"], ["x"]]}',
        b"[" * 5_000,
        b'{"csv": "\xff"}',
    ):
        answer = world.call("POST", BULK, content=body, headers=json)
        assert (answer.status_code, error_text(answer)[:24]) == (400, "Error decoding arguments"), (
            body
        )
    deep = b'{"template_id": %s}' % (b"[" * 400 + b"]" * 400)
    assert error_text(world.call("POST", BULK, content=deep, headers=json))[:14] == "Error decoding"
    answer = world.call("POST", BULK, content=b"[]", headers=json)
    assert messages(answer) == ["[] is not of type object"]
    assert world.call("POST", BULK, content=b"{}").status_code == 415


GOOD_ROWS = b'["email address","name"],["a@b.ca","x"],'
LARGE_ROW = "a row has more than 1048576 bytes"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (GOOD_ROWS + b"[%s1]" % (b"1," * 1_000), "Row 1 (line 3) - a row has more than 1000 cells"),
        (GOOD_ROWS + b"[%s1]" % (b"1," * 600_000), f"Row 1 (line 3) - {LARGE_ROW}"),
        (GOOD_ROWS + b'["%s"]' % (b"x" * 1_048_576), f"Row 1 (line 3) - {LARGE_ROW}"),
        (b"[%s1],[]" % (b"1," * 600_000), f"header row (line 1) - {LARGE_ROW}"),
    ],
    ids=["cells", "bytes of cells", "bytes of a cell", "header"],
)
def test_a_huge_row_of_json_is_refused_by_its_number(rows: bytes, text: str) -> None:
    world = World()
    head = b'{"template_id":"%s","name":"a","rows":[' % TEMPLATES[EMAIL].encode()
    json = {"content-type": "application/json"}
    answer = world.call("POST", BULK, content=head + rows + b"]}", headers=json)
    assert (answer.status_code, error_text(answer)) == (400, f"Error converting to CSV: {text}")
    assert world.log.records == []


def test_a_huge_row_is_not_decoded() -> None:
    """Not for another error of the form either: 4.9 million cells blocked the loop for 0.9 s."""
    huge = b"[%s1]" % (b"1," * 600_000)
    head = b'{"template_id":"%s","name":"a","rows":[' % TEMPLATES[EMAIL].encode()
    json = {"content-type": "application/json"}
    answer = World().call("POST", BULK, content=head + huge + b"]}", headers=json)
    assert messages(answer) == ["rows […] is too short"]


def test_a_request_has_either_rows_or_csv() -> None:
    world = World()
    wanted = "You should specify either rows or csv"
    assert error_text(world.post(BULK, {**bulk(), "csv": "a"})) == wanted
    assert world.post(BULK, {**bulk(), "csv": ""}).status_code == 201
    assert error_text(world.post(BULK, {**bulk(), "rows": None, "csv": "a"})) != wanted


def test_too_many_rows_are_refused_as_too_long_in_json_and_as_too_many_in_csv() -> None:
    world = World(ingest_bulk_rows_max=3, ingest_job_rows_max=4)
    rows = [["email address", "name"], *(["a@b.ca", "x"] for _ in range(5))]
    assert ask(world, "rows", rows[:4]).status_code == 201
    assert error_text(ask(world, "rows", rows[:5])).endswith("is too long")
    assert ask(world, "csv", rows[:4]).status_code == 201
    wanted = "Too many rows. Maximum number of rows allowed is {}"
    assert error_text(ask(world, "csv", rows[:5])) == wanted.format(3)
    assert ask(world, "file", [*rows[:5], [""], ["", ""]]).status_code == 201
    assert error_text(ask(world, "file", rows)) == wanted.format(4)


@BOTH_WAYS
def test_template_and_permissions_are_checked_before_the_rows(way: str) -> None:
    world = World()
    rows = [["x"], ["y"]]
    world.change(template(EMAIL, archived=True))
    assert error_text(ask(world, way, rows)).endswith("has been deleted")
    world.change(template(EMAIL, hidden=True))
    assert error_text(ask(world, way, rows)) == "Template not found"
    world.change(service(permissions=frozenset({"email"})))
    assert error_text(ask(world, way, rows, SMS)) == "Service is not allowed to send text messages"
    world.change(service(rate_limit=0, permissions=frozenset({"sms"})))
    answer = ask(world, way, rows, SMS)
    assert (answer.status_code, answer.json()["errors"][0]["error"]) == (429, "RateLimitError")
    assert world.log.records == []


def test_a_sender_is_checked_and_stored_for_json_and_for_files() -> None:
    world = World()
    mine = UUID(int=0x5E1)
    world.change(Sender(id=mine, service_id=SERVICE, channel=EMAIL, value="r@b.ca"))
    wanted = f"email_reply_to_id {NO_SUCH} does not exist in database for service id {SERVICE}"
    assert error_text(world.post(BULK, bulk(reply_to_id=NO_SUCH))) == wanted
    form_ = form(fields(reply_to_id=NO_SUCH), file(table(["email address", "name"])))
    assert error_text(send(world, form_)) == wanted
    answer = world.post(BULK, bulk(reply_to_id=str(mine)))
    assert answer.json()["data"]["sender_id"] == str(mine)
    assert world.post(BULK, bulk(reply_to_id=None)).json()["data"]["sender_id"] is None


@BOTH_WAYS
def test_a_refusal_says_how_many_messages_the_day_and_the_year_still_allow(way: str) -> None:
    world = World()
    rows = good(EMAIL)
    world.change(service(daily_email=1))
    assert error_text(ask(world, way, rows)) == (
        "You only have 1 remaining messages before you reach your daily limit. You've tried to "
        "send 2 messages."
    )
    world.change(service(annual_sms=1, daily_sms=0))
    assert error_text(ask(world, way, good(SMS), SMS, **TEST)) == (
        "You only have 1 remaining sms messages before you reach your annual limit. You've tried "
        "to send 2 sms messages."
    )
    world.change(service(daily_email=3))
    assert ask(world, way, rows).status_code == 201
    assert "only have 1" in error_text(ask(world, way, rows))
    assert world.post("/v2/notifications/email", email()).status_code == 201
    assert world.post("/v2/notifications/email", email()).status_code == 429


def test_a_limit_that_another_request_used_up_meanwhile_refuses_the_job() -> None:
    world = World()
    world.change(service(daily_email=3))

    async def both() -> list[httpx2.Response]:
        world.log.stand_still()
        headers = {"authorization": f"ApiKey-v1 {api_key(1)}"}
        async with world.client() as client:
            asks = [
                asyncio.create_task(client.post(BULK, json=bulk(), headers=headers))
                for _ in range(2)
            ]
            while len(world.log.waiting) < 2:
                await asyncio.sleep(0.01)
            world.log.go_on()
            return await asyncio.gather(*asks)

    answers = sorted(asyncio.run(both()), key=lambda each: each.status_code)
    assert [each.status_code for each in answers] == [201, 429]
    assert answers[1].json()["errors"][0]["error"] == "LiveServiceTooManyEmailRequestsError"
    assert len(world.log.seals()) == 1


@BOTH_WAYS
def test_a_recipient_missing_on_the_safelist_is_reported_before_other_errors(way: str) -> None:
    world = World()
    rows = [["email address", "name"], ["friend@example.com", ""], ["a@b.ca", "x"]]
    assert error_text(ask(world, way, rows, **TEAM)) == (
        "You cannot send to these recipients because you used a team and safelist API key."
    )
    for unusable in ("nobody", ""):
        assert error_text(ask(world, way, [rows[0], [unusable, "x"]], **TEAM)) == (
            "You cannot send to these recipients because you used a team and safelist API key."
        )
    assert ask(world, way, [rows[0], ["Friend@Example.com", "x"]], **TEAM).status_code == 201
    world.change(service(restricted=True))
    wanted = (
        "You cannot send to these recipients because your service is in trial mode. You can only "
        "send to members of your team and your safelist."
    )
    assert error_text(ask(world, way, rows, **TEAM)) == error_text(ask(world, way, rows)) == wanted
    simulated = [rows[0], ["simulate-delivered@notification.canada.ca", "x"]]
    assert error_text(ask(world, way, simulated)) == wanted
    assert ask(world, way, [rows[0], ["a@b.ca", "x"]], **TEST).status_code == 201


def test_a_byte_order_mark_in_front_of_csv_does_not_belong_to_the_header() -> None:
    csv = '\ufeff"email address","name"\na@b.ca,x'
    assert World().post(BULK, bulk(EMAIL, csv=csv)).status_code == 201


@BOTH_WAYS
def test_an_sms_that_is_too_long_is_reported_before_other_errors(way: str) -> None:
    world = World()
    world.change(template(SMS, body="((a))((b))"))
    rows = [
        ["phone number", "a", "b"],
        ["7", "x", "y"],
        ["6135550199", "x" * 306, "y" * 300],
        ["6135550199", "x" * 307, "y" * 300],
    ]
    # The prefix, with the service's name, has 6 units.
    assert error_text(ask(world, way, rows, SMS)) == (
        "Row 3 - has a character count greater than 612 characters. Some messages may be too long "
        "due to custom content."
    )
    assert ask(world, way, [rows[0], rows[2]], SMS).status_code == 201


@BOTH_WAYS
def test_international_numbers_need_a_permission(way: str) -> None:
    world = World()
    rows = [["phone number", "name"], ["+447911123456", "x"]]
    assert ask(world, way, rows, SMS).status_code == 201
    world.change(service())
    assert error_text(ask(world, way, rows, SMS)) == (
        "Some rows have errors. Row 0 - `phone number`: Cannot send to international mobile "
        "numbers."
    )


@BOTH_WAYS
def test_only_the_first_20_bad_rows_are_listed_and_no_seal_is_written(way: str) -> None:
    world = World()
    rows = [["email address", "name"], *(["a@b.ca", "x"] for _ in range(600))]
    rows += [["nobody", "x"] for _ in range(30)]
    text = error_text(ask(world, way, rows))
    assert text.count("invalid recipient") == 20
    assert text.startswith("Some rows have errors. Row 600 - `email address`: invalid recipient.")
    assert text.endswith("Row 619 - `email address`: invalid recipient.")
    assert world.log.seals() == []
    # Chunks that a file wrote before the bad rows are in the log, and expire without a seal.
    assert len(world.log.records) == (1 if way == "file" else 0)


@BOTH_WAYS
def test_simulated_recipients_are_marked_and_may_not_be_mixed_with_real_numbers(way: str) -> None:
    world = World()
    world.change(service(daily_sms=1))
    header = ["phone number", "name"]
    simulated = [header, ["+16132532222", "x"]]
    for _ in range(2):  # simulated ones do not count
        assert ask(world, way, simulated, SMS).status_code == 201
    assert [seal.rows for seal in world.log.seals()] == [1, 1]
    world = World()
    mixed = [*simulated, ["6135550199", "y"]]
    assert error_text(ask(world, way, mixed, SMS)) == (
        "Bulk sending to testing and non-testing numbers is not supported"
    )
    assert ask(world, way, mixed, SMS, **TEST).status_code == 201
    world = World()
    header = ["email address", "name"]
    mixed = [header, ["simulate-delivered-2@notification.canada.ca", "x"], ["a@b.ca", "y"]]
    assert ask(world, way, mixed).status_code == 201
    assert [row.simulated for row in job(world)[1]] == [True, False]


def test_a_job_can_be_scheduled() -> None:
    world = World()
    later = datetime.now(UTC) + timedelta(hours=9)
    answer = world.post(BULK, bulk(scheduled_for=later.isoformat()))
    data = answer.json()["data"]
    assert data["job_status"] == "scheduled"
    assert data["scheduled_for"] == later.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
    assert job(world)[0].scheduled_for == later
    far = (later + timedelta(days=5)).isoformat()
    body = form(fields(scheduled_for=far), file(table(["email address", "name"])))
    assert messages(send(world, body)) == [
        "scheduled_for datetime can only be up to 96 hours in the future"
    ]


@BOTH_WAYS
@pytest.mark.parametrize("acknowledged", [0, 1, 2])
def test_a_missing_acknowledgement_is_answered_503_and_never_201(
    way: str, acknowledged: int
) -> None:
    world = World()
    world.log.stand_still(after=acknowledged, deadline_seconds=0)
    rows = [["email address", "name"], *(["a@b.ca", "x"] for _ in range(700))]
    answer = ask(world, way, rows)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["errors"][0]["error"] == "ServiceUnavailableError"
    assert world.log.seals() == []


@BOTH_WAYS
def test_the_same_key_and_body_repeat_the_first_answer(way: str) -> None:
    world = World()
    first = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    world.rows.save()
    again = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert len(world.log.seals()) == 1
    other = ask(
        world, way, [["email address", "name"], ["a@b.ca", "x"]], **{"idempotency-key": "k"}
    )
    assert (other.status_code, other.json()["errors"][0]["error"]) == (409, "ConflictError")
    assert ask(world, way, good(EMAIL), **{"idempotency-key": "k2"}).status_code == 201
    assert len(world.log.seals()) == 2


@BOTH_WAYS
def test_the_first_answer_is_repeated_although_the_request_would_be_refused_now(way: str) -> None:
    world = World()
    first = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    world.rows.save()
    world.change(template(EMAIL, archived=True))
    world.change(service(active=False, daily_email=0))
    again = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    assert (again.status_code, again.json()) == (201, first.json())


@BOTH_WAYS
def test_a_key_gives_the_same_id_although_the_first_job_cannot_be_read(way: str) -> None:
    world = World()
    world.jobs.works = False
    for _ in range(2):
        assert ask(world, way, good(EMAIL), **{"idempotency-key": "k"}).status_code == 201
        world.rows.save()
    one, two = world.log.seals()
    assert (one.job_id, one.body_hash, one.idempotency_key) == (
        two.job_id,
        two.body_hash,
        two.idempotency_key,
    )
    assert one.upload_id != two.upload_id
    assert one.job_id.version == 8


@pytest.mark.parametrize("address", [BULK, JOBS])
def test_a_key_of_a_wrong_length_is_refused(address: str) -> None:
    answer = World().call("POST", address, headers={"idempotency-key": "x" * 256})
    assert answer.status_code == 400
    assert "1 to 255 characters" in error_text(answer)


@BOTH_WAYS
def test_the_first_answer_is_repeated_as_it_was_although_the_job_has_finished(way: str) -> None:
    world = World()
    first = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    world.rows.save()
    id = UUID(first.json()["data"]["id"])
    done = {"started_at": NOW, "finished_at": NOW, "commanded_at": NOW}
    world.jobs.put(replace(world.jobs.jobs[id], command=Command.CANCELLED, **done))
    assert world.call("GET", f"{JOBS}/{id}").json()["data"]["job_status"] == "cancelled"
    repeated = ask(world, way, good(EMAIL), **{"idempotency-key": "k"})
    assert (repeated.status_code, repeated.json()) == (201, first.json())


STRANGER, FOREIGN = UUID(int=0x5E2), UUID(int=0x7E2)


def strangers(world: World) -> None:
    """Add another service, with a key and a template of its own."""
    own = template(EMAIL, id=FOREIGN, service_id=STRANGER)
    for each in (service(id=STRANGER), key(9, KeyType.NORMAL, STRANGER), own):
        world.change(each)


def test_uploads_at_once_are_bounded_and_one_service_has_at_most_half_of_the_slots() -> None:
    world = World(ingest_uploads_max=3)
    strangers(world)

    async def crowd() -> tuple[list[int], int, list[httpx2.Response]]:
        world.log.stand_still()
        ours = {"authorization": f"ApiKey-v1 {api_key(1)}"}
        theirs = {"authorization": f"ApiKey-v1 {api_key(9, STRANGER)}"}
        body = form(fields(), file(table(*good(EMAIL))))
        async with world.client() as client:

            async def held_so_far(number: int) -> None:
                while len(world.log.waiting) < number:
                    await asyncio.sleep(0.01)

            def ask(**more: Any) -> asyncio.Task[httpx2.Response]:
                return asyncio.create_task(client.post(**more))

            # One service has two of three slots, with JSON and a file.
            held = [
                ask(url=BULK, json=bulk(), headers=ours),
                ask(url=JOBS, content=body, headers={**FORM, **ours}),
            ]
            await held_so_far(2)
            refused = [
                await client.post(BULK, content=b"not even JSON", headers=ours),
                await client.post(JOBS, content=body, headers={**FORM, **ours}),
            ]
            held.append(ask(url=BULK, json=bulk(template_id=str(FOREIGN)), headers=theirs))
            await held_so_far(3)
            refused.append(await client.post(BULK, json=bulk(), headers=theirs))
            world.log.go_on()
            held_codes = [(await each).status_code for each in held]
            last = await client.post(BULK, json=bulk(), headers=ours)
            return held_codes, last.status_code, refused

    held, last, refused = asyncio.run(asyncio.wait_for(crowd(), WAIT_SECONDS))
    assert (held, last) == ([201, 201, 201], 201)
    for each in refused:
        assert (each.status_code, each.headers["retry-after"]) == (503, "2")
        assert error_text(each) == "Too many files are being taken, try again"
    assert refused[0].headers["connection"] == "close"


def test_a_large_job_lets_the_event_loop_serve_other_requests() -> None:
    world = World()
    rows = [["email address", "name"], *([f"a{n}@b.ca", "x"] for n in range(9_000))]

    async def beside() -> float:
        async with world.client() as client:
            headers = {"authorization": f"ApiKey-v1 {api_key(1)}"}
            asked = asyncio.create_task(client.post(BULK, json=bulk(rows=rows), headers=headers))
            turns = 0
            while not asked.done():
                await asyncio.sleep(0)
                turns += 1
            assert (await asked).status_code == 201
            return turns

    assert asyncio.run(beside()) > 50
