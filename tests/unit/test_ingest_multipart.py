"""Bad files, malformed forms and incomplete uploads: each gets an error that says why."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from courant.topics import Channel
from ingest.bulk.handle import FIELDS
from ingest.http import asgi, slow_clients
from ingest.http import multipart as uploading
from support.ingest.uploads import (
    BOUNDARY,
    BULK,
    FORM,
    JOBS,
    TEMPLATES,
    bulk,
    error_text,
    fields,
    file,
    form,
    job,
    part,
    send,
    stream,
    upload,
)
from support.ingest.world import World, service
from support.waiting import WAIT_SECONDS

HEAD = b"email address,name\n"
GOOD = HEAD + b"a@b.ca,x\n"
CSV = "Error converting to CSV: "
ROWS = "Some rows have errors. "
LARGE = "Personalisation variables size of 51201 bytes is greater than allowed limit of 51200 bytes"

# The fault, the file, and the text of its error.
BAD: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "Missing column headers: email address, name"),
    ("white space alone", b" \r\n,,\n", "Missing column headers: email address, name"),
    ("UTF-16 with a mark", GOOD.decode().encode("utf-16"),
     f"{CSV}header row (line 1) - there are bytes that are not UTF-8"),
    ("UTF-16 without a mark", GOOD.decode().encode("utf-16-le"),
     f"{CSV}header row (line 1) - there is a NUL character; the file has to be UTF-8"),
    ("Latin-1 in a row", GOOD + "é@b.ca,Zoë\n".encode("latin-1"),
     f"{CSV}Row 1 (line 3) - there are bytes that are not UTF-8"),
    ("half a character at the end", GOOD + "b@b.ca,é".encode()[:-1],
     f"{CSV}Row 1 (line 3) - there are bytes that are not UTF-8"),
    ("NUL in a cell", GOOD + b"b@b.ca,a\0b\n",
     f"{CSV}Row 1 (line 3) - there is a NUL character; the file has to be UTF-8"),
    ("CR for line ends", GOOD.replace(b"\n", b"\r"),
     f"{CSV}header row (line 1) - a line ends in CR alone, or has one inside"),
    ("CR inside a row", GOOD + b"b@b.ca,a\rb\n",
     f"{CSV}Row 1 (line 3) - a line ends in CR alone, or has one inside"),
    ("a quote that is not closed", GOOD + b'b@b.ca,"x\nc@b.ca,y\nd@b.ca,z\n',
     f"{CSV}Row 1 (line 3) - a quote is not closed"),
    ("text behind a quote", GOOD + b'b@b.ca,"x"y\n',
     f"{CSV}Row 1 (line 3) - text follows a closing quote"),
    ("a huge cell", GOOD + b"b@b.ca," + b"x" * 131_073 + b"\n",
     f"{CSV}Row 1 (line 3) - a cell has more than 131072 characters, or a quote is not closed"),
    ("a line without end", GOOD + b"b@b.ca" + b",x" * 700_000,
     f"{CSV}Row 1 (line 3) - a row has more than 1048576 characters"),
    ("another separator", GOOD.replace(b",", b";"),
     "Missing column headers: email address, name"),
    ("no header", b"a@b.ca,x\nb@b.ca,y\n", "Missing column headers: email address, name"),
    ("a column too few", b"email address\na@b.ca\n", "Missing column headers: name"),
    ("another channel's column", b"phone number,name\n6135550199,x\n",
     "Missing column headers: email address"),
    ("the recipient twice", b"email address,Email_Address,name\na@b.ca,a@b.ca,x\n",
     "Duplicate column headers: Email_Address, email address"),
    ("a short row", GOOD + b"b@b.ca\n", f"{ROWS}Row 1 - `name`: Missing."),
    ("a blank line inside", GOOD + b"\nb@b.ca,x\n",
     f"{ROWS}Row 1 - `email address`: Missing,`name`: Missing."),
    ("no such address", GOOD + b"b@b,x\n", f"{ROWS}Row 1 - `email address`: invalid recipient."),
    ("an empty cell", GOOD + b'b@b.ca," "\n', f"{ROWS}Row 1 - `name`: Missing."),
    ("cells in the wrong order", GOOD + b"x,b@b.ca\n",
     f"{ROWS}Row 1 - `email address`: invalid recipient."),
    ("too many characters", GOOD + b"b@b.ca," + b"x" * 51_201 + b"\n",
     f"{ROWS}Row 1 - {LARGE}."),
    ("a row too many", GOOD + b"b@b.ca,x\n" * 1_200,
     "Too many rows. Maximum number of rows allowed is 1200"),
    ("a spreadsheet", b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)),
     f"{CSV}header row (line 1) - there is a NUL character; the file has to be UTF-8"),
]  # fmt: skip
KINDS = [each[0] for each in BAD]


@pytest.mark.parametrize(("content", "text"), [each[1:] for each in BAD], ids=KINDS)
def test_a_bad_file_is_refused_and_makes_no_job(content: bytes, text: str) -> None:
    world = World(ingest_job_rows_max=1_200)
    answer = upload(world, content)
    assert (answer.status_code, error_text(answer)) == (400, text)
    assert world.log.seals() == []


# Text in JSON has no incomplete characters, and empty text counts as missing.
TEXTS = {kind: each for kind, *each in BAD if "UTF-8" not in each[1] and each[0]}


@pytest.mark.parametrize(("content", "text"), TEXTS.values(), ids=TEXTS)
def test_bulk_gives_the_same_answer_for_the_same_text(content: bytes, text: str) -> None:
    world = World(ingest_bulk_rows_max=1_200)
    answer = world.post(BULK, bulk(csv=content.decode()))
    assert (answer.status_code, error_text(answer)) == (400, text)
    assert world.log.records == []


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD[:-1],
        GOOD + b"\r\n \r\n,,\r\n",
        b'"email address","name"\n"a@b.ca","x"\n',
        b"name,ignored,email address\nx,,a@b.ca,beyond,the,header\n",
    ],
)
def test_an_odd_but_valid_file_makes_a_job(content: bytes) -> None:
    world = World()
    answer = upload(world, content)
    assert answer.status_code == 201, answer.text
    [row] = job(world)[1]
    assert (row.to, row.personalisation) == ("a@b.ca", {"name": "x"})


TEMPLATE = TEMPLATES[Channel.EMAIL]
FORMS: list[tuple[str, bytes, str]] = [
    ("no parts", form(), "file is a required property"),
    ("no file", form(fields()), "file is a required property"),
    ("the file first", form(file(GOOD), fields()), "template_id has to come before the file"),
    ("no template", form(part("name", "x"), file(GOOD)), "template_id has to come before the file"),
    ("a field after the file", form(fields(), file(GOOD), part("name", "x")),
     "name has to come before the file"),
    ("two files", form(fields(), file(GOOD), file(GOOD)), "Only one file can be sent"),
    ("a field twice", form(fields(), fields(), file(GOOD)), "template_id is there more than once"),
    ("no name", form(fields(), part("file", GOOD)), "name is a required property"),
    ("an unknown field", form(fields(rows="x"), file(GOOD)),
     "Additional properties are not allowed (rows was unexpected)"),
    ("no UUID", form(part("template_id", "7"), file(GOOD)), "template_id is not a valid UUID"),
    ("a field that is not UTF-8", form(part("name", b"\xff"), fields(), file(GOOD)),
     "name is not UTF-8"),
    ("no boundary at all", b"a,b\n1,2\n",
     "The request's body is not multipart/form-data as its Content-Type says"),
    ("another boundary", form(fields(), file(GOOD)).replace(BOUNDARY, b"b-boundary"),
     "The request's body is not multipart/form-data as its Content-Type says"),
    ("cut inside the file", form(fields(), file(GOOD))[:-20], "The request's body broke off"),
    ("cut before the last boundary", fields() + file(GOOD), "The request's body broke off"),
    ("cut inside the last boundary", form(fields(), file(GOOD))[:-3],
     "The request's body broke off"),
    ("cut inside the fields", fields()[:-10], "The request's body broke off"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "text"), [e[1:] for e in FORMS], ids=[e[0] for e in FORMS])
def test_a_malformed_form_is_refused_and_makes_no_job(body: bytes, text: str) -> None:
    world = World()
    answer = send(world, body)
    assert (answer.status_code, error_text(answer)) == (400, text)
    assert world.log.seals() == []


def test_another_content_type_is_refused() -> None:
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary="):
        answer = World().call("POST", JOBS, content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, error_text(answer)) == (
            415,
            "Content-Type has to be multipart/form-data with a boundary",
        )
    long = {"content-type": f"multipart/form-data; boundary={'x' * 300}"}
    assert World().call("POST", JOBS, content=b"{}", headers=long).status_code == 415


@dataclass
class Fields:
    """A body with this many unexpected fields, each a part of its own."""

    parts: int
    given: int = 0
    fully_read: bool = False

    async def next_part(self) -> bytes:
        self.given += 1
        self.fully_read = self.given == self.parts
        return part(f"f{self.given}", "x" * 16_000)


def test_an_unexpected_field_is_refused_before_its_value_is_stored() -> None:
    body = Fields(parts=1_000)
    upload = uploading.MultipartUpload(FORM["content-type"], body, FIELDS)
    with pytest.raises(asgi.AnsweredEarly) as refused:
        asyncio.run(upload.read_fields())
    assert refused.value.answer.status == 400
    assert b"(f1 was unexpected)" in refused.value.answer.body
    assert (body.given, upload.fields) == (1, {})
    assert len(FIELDS) * uploading.FIELD_BYTES_MAX <= 64 * 1024


def test_a_field_that_is_too_large_is_refused() -> None:
    answer = send(World(), form(fields(name="x" * 20_000), file(GOOD)))
    assert answer.status_code == 413


def pieces(body: bytes, seed: int) -> AsyncIterator[bytes]:
    chance = random.Random(seed)

    async def give() -> AsyncIterator[bytes]:
        start = 0
        while start < len(body):
            size = chance.choice([1, 2, 3, 7, 100, 10_000])
            yield body[start : start + size]
            start += size

    return give()


@settings(max_examples=40)
@given(st.integers(), st.sampled_from([None, *BAD[2:16]]))
def test_a_file_is_read_the_same_however_it_is_split(
    seed: int, case: tuple[str, bytes, str] | None
) -> None:
    world = World()
    many = b"".join(b'a%d@b.ca,"x\n%d"\r\n' % (n, n) for n in range(900))
    content = case[1] if case else HEAD + many
    body = form(fields(), file(content))
    answer = asyncio.run(stream(world, pieces(body, seed)))
    if case:
        assert (answer.status_code, error_text(answer)) == (400, case[2])
        assert world.log.seals() == []
        return
    assert answer.status_code == 201, answer.text
    seal, rows = job(world)
    assert seal.chunks == 2
    assert [row.personalisation["name"] for row in rows] == [f"x\n{n}" for n in range(900)]


def test_chunks_are_written_while_the_file_streams_and_slow_the_client_down() -> None:
    world = World()
    world.change(service(daily_email=20_000))

    async def told_() -> tuple[httpx2.Response, int, int]:
        world.log.stand_still()
        sent = 0

        async def give() -> AsyncIterator[bytes]:
            nonlocal sent
            yield (
                fields()
                + b"--"
                + BOUNDARY
                + b'\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
                + HEAD
            )
            while sent < 20_000:
                yield b"".join(b"a%d@b.ca,x\n" % n for n in range(sent, sent + 1_000))
                sent += 1_000
            yield b"\r\n--" + BOUNDARY + b"--\r\n"

        asked = asyncio.create_task(stream(world, give()))
        for _ in range(300):
            await asyncio.sleep(0.001)
        stood, underway = sent, len(world.log.waiting)
        world.log.go_on()
        return await asked, stood, underway

    answer, stood, underway = asyncio.run(told_())
    assert answer.status_code == 201
    # Four chunks may wait for acknowledgements: the client gets a block further, not to the end.
    assert underway == 4
    assert stood < 12_000
    assert len(job(world)[1]) == 20_000


def test_a_client_that_sends_nothing_for_too_long_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "PART_SECONDS", 0.5)
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.1)
    world = World()

    async def silent() -> AsyncIterator[bytes]:
        yield fields()
        await asyncio.sleep(WAIT_SECONDS)

    async def slow() -> AsyncIterator[bytes]:
        body = form(fields(), file(GOOD))
        for start in range(0, len(body), 50):
            await asyncio.sleep(0.04)  # together longer than a client may be silent
            yield body[start : start + 50]

    answer = asyncio.run(stream(world, silent()))
    assert (answer.status_code, error_text(answer)) == (
        408,
        "The request's body did not come in time",
    )
    assert asyncio.run(stream(world, slow())).status_code == 201


def test_a_client_that_sends_too_slowly_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "WAIT_SECONDS", 0.2)
    world, sent = World(), 0
    begun = form(fields(), file(HEAD))[: -len(BOUNDARY) - 8]

    async def drips() -> AsyncIterator[bytes]:
        nonlocal sent
        yield begun
        while True:
            await asyncio.sleep(0.02)
            sent += 1
            yield b"x"

    answer = asyncio.run(asyncio.wait_for(stream(world, drips()), WAIT_SECONDS))
    assert (answer.status_code, error_text(answer)) == (
        408,
        "The request's body did not come in time",
    )
    assert sent < 20
    assert world.log.seals() == []


def test_a_client_that_we_hold_back_does_not_count_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "WAIT_SECONDS", 1.0)
    world = World()

    async def ask() -> httpx2.Response:
        world.log.stand_still()
        body = form(fields(), file(HEAD + b"a@b.ca,x\n" * 6_000))
        asked = asyncio.create_task(stream(world, pieces(body, 7)))
        await asyncio.sleep(1.5)
        assert not asked.done()
        world.log.go_on()
        return await asked

    assert asyncio.run(ask()).status_code == 201


def test_the_rest_of_a_refused_file_is_read_so_that_the_client_reads_its_answer() -> None:
    world, sent = World(), 0

    async def give() -> AsyncIterator[bytes]:
        nonlocal sent
        yield form(fields(), file(b"x\n"))[: -len(BOUNDARY) - 8]
        for _ in range(100):
            sent += 1
            yield b"y" * 1_000

    answer = asyncio.run(stream(world, give()))
    assert error_text(answer) == "Missing column headers: email address, name"
    assert sent == 100
    assert "connection" not in answer.headers


def test_a_file_may_not_exceed_the_bound_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "BODY_BYTES_MAX", 10_000)
    answer = upload(World(), HEAD + b"a@b.ca,x\n" * 2_000)
    assert answer.status_code == 413


def test_a_name_and_other_fields_may_come_with_the_file() -> None:
    world = World()
    answer = send(world, form(fields(name="Fête"), file(GOOD, "other.csv")))
    assert answer.json()["data"]["original_file_name"] == "Fête"
    world = World()
    answer = send(world, form(fields(), file(GOOD, "Été.csv")))
    assert answer.json()["data"]["original_file_name"] == "Été.csv"
    again: dict[str, Any] = {"data": {"template_id": TEMPLATE}, "files": {"file": ("a.csv", GOOD)}}
    assert world.call("POST", JOBS, **again).status_code == 201


def test_a_file_needs_a_key() -> None:
    answer = World().call("POST", JOBS, content=b"x", headers={**FORM, "authorization": ""})
    assert (answer.status_code, answer.headers["connection"]) == (401, "close")


def test_no_chunk_is_written_for_rows_beyond_the_limits() -> None:
    world = World()
    world.change(service(daily_email=600))
    answer = upload(world, HEAD + b"a@b.ca,x\n" * 2_000)
    assert error_text(answer) == (
        "You only have 600 remaining messages before you reach your daily limit. You've tried to "
        "send 2000 messages."
    )
    assert len(world.log.records) == 1
