"""Requests that make jobs, for tests: bodies, forms, and the records that they leave."""

from collections.abc import AsyncIterator, Iterable, Sequence
from hashlib import sha256

import httpx2

from courant.bulk import unpack
from courant.contracts import Chunk, JobRow, Seal
from courant.topics import Channel
from support.ingest.world import EMAIL_TEMPLATE, RING, SMS_TEMPLATE, World, api_key, messages

BULK, JOBS = "/v2/notifications/bulk", "/v2/jobs"
TEMPLATES = {Channel.EMAIL: str(EMAIL_TEMPLATE), Channel.SMS: str(SMS_TEMPLATE)}
BOUNDARY = b"a-boundary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
Cells = list[list[object]]


def bulk(channel: Channel = Channel.EMAIL, **more: object) -> dict[str, object]:
    """Return the body of a request. Unless rows or csv are given, it has two good rows."""
    given = {"template_id": TEMPLATES[channel], "name": "a job", **more}
    return given if {"rows", "csv"} & set(given) else {**given, "rows": good(channel)}


def good(channel: Channel) -> Cells:
    if channel is Channel.EMAIL:
        return [["email address", "name"], ["a@example.com", "Zoë"], ["b@example.com", "Bo"]]
    return [["phone number", "name"], ["+16135550199", "Zoë"], ["613-555-0123", "Bo"]]


def part(name: str, value: bytes | str, filename: str | None = None) -> bytes:
    """Return a part of a form, with the boundary in front."""
    of_file = f'; filename="{filename}"' if filename else ""
    head = (
        f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
    )
    return head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def fields(channel: Channel = Channel.EMAIL, **more: str) -> bytes:
    """Return the fields of an upload."""
    given = {"template_id": TEMPLATES[channel], **more}
    return b"".join(part(name, value) for name, value in given.items())


def file(content: bytes | str, filename: str = "people.csv") -> bytes:
    return part("file", content, filename)


def upload(
    world: World, content: bytes | str, channel: Channel = Channel.EMAIL, **headers: str
) -> httpx2.Response:
    """Send a file."""
    return send(world, form(fields(channel), file(content)), **headers)


def send(world: World, body: bytes | AsyncIterator[bytes], **headers: str) -> httpx2.Response:
    return world.call("POST", JOBS, content=body, headers={**FORM, **headers})


async def stream(world: World, parts: AsyncIterator[bytes], **headers: str) -> httpx2.Response:
    headers = {"authorization": f"ApiKey-v1 {api_key(1)}", **FORM, **headers}
    async with world.client() as client:
        return await client.post(JOBS, content=parts, headers=headers)


def table(*rows: Sequence[str]) -> str:
    """Return rows of plain cells as CSV."""
    return "".join(",".join(row) + "\n" for row in rows)


def error_text(answer: httpx2.Response) -> str:
    [message] = messages(answer)
    return message


def job(world: World) -> tuple[Seal, list[JobRow]]:
    """Return the only job in the log with all its rows. Asserts that chunks and seal agree."""
    *chunks, seal = world.log.jobs()
    assert isinstance(seal, Seal)
    assert rows_of(chunks, seal) is not None
    assert {each.key for each in world.log.records} == {seal.upload_id.bytes}
    return seal, rows_of(chunks, seal)


def rows_of(chunks: Iterable[object], seal: Seal) -> list[JobRow]:
    """Return the rows of a seal's chunks. Asserts that the seal describes them."""
    rows: list[JobRow] = []
    prints = b""
    for number, chunk in enumerate(chunks):
        assert isinstance(chunk, Chunk)
        assert (chunk.upload_id, chunk.number) == (seal.upload_id, number)
        found = unpack(RING, chunk.upload_id, number, chunk.sealed)
        assert (chunk.first, chunk.rows) == (len(rows) + 1, len(found))
        assert 0 < len(found) <= 500
        rows += found
        prints += sha256(chunk.sealed).digest()
        seal_chunks = number + 1
    assert seal.chunks == (seal_chunks if rows else 0)
    assert seal.rows == len(rows)
    assert seal.digest == sha256(prints).digest()
    return rows
