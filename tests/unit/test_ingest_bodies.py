"""Bodies that are broken, slow, deep or too large: each is answered, and gives its place back."""

import asyncio
import json
from typing import Any

import pytest

from ingest.http import asgi
from support.ingest.world import World, api_key, email, messages

WORLD = World()


def test_a_record_that_would_be_too_large_is_refused_before_it_is_written() -> None:
    world = World()
    for size, status in ((1_900_000, 201), (2_200_000, 413), (5_000_000, 413)):
        assert (
            world.post("/v2/notifications/email", email(reference="r" * size)).status_code == status
        )
    assert len(world.log.records) == 1


async def told(world: World, receive: Any) -> tuple[int, Any]:
    """Call the application with a body that comes as it is told; give what it answers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"authorization", f"ApiKey-v1 {api_key(1)}".encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {"type": "http", "method": "POST", "path": "/v2/notifications/email"}
    await world.app({**scope, "query_string": b"", "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["errors"][0]["message"]


def test_a_body_that_breaks_off_is_answered_all_the_same() -> None:
    parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return parts.pop(0)

    assert asyncio.run(told(World(), receive)) == (400, "The request's body broke off")


@pytest.mark.parametrize("pause", [1.0, 0.02], ids=["nothing", "a byte now and then"])
def test_a_body_that_does_not_come_gives_its_place_back(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "PART_SECONDS", 0.1)
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.3)
    world = World()

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def call() -> tuple[int, Any]:
        async with asyncio.timeout(5):
            return await told(world, receive)

    assert asyncio.run(call()) == (408, "The request's body did not come in time")
    assert world.app.in_flight == 0


@pytest.mark.parametrize("around", ['{"reference": %s}', '{"personalisation": {"name": %s}}', "%s"])
def test_no_depth_of_a_body_exhausts_the_stack(around: str) -> None:
    # Near the stack's end it could still be read, but not be printed into the refusal.
    for depth in (*range(900, 1_000), 10_000):
        body = around % ("[" * depth + "]" * depth)
        headers = {"content-type": "application/json"}
        answer = WORLD.call("POST", "/v2/notifications/email", content=body, headers=headers)
        assert messages(answer)[0].startswith("Error decoding arguments"), depth


def test_many_brackets_are_no_depth() -> None:
    values = {"name": "[{" * 500, "list": [[each] for each in range(500)]}
    assert WORLD.post("/v2/notifications/email", email(personalisation=values)).status_code == 201


def test_who_was_answered_before_its_body_was_read_is_told_that_the_connection_ends() -> None:
    path = "/v2/notifications/email"
    early = WORLD.call("POST", path, json=email(), headers={"authorization": ""})
    assert (early.status_code, early.headers["connection"]) == (401, "close")
    assert "connection" not in WORLD.post(path, email()).headers
    assert "connection" not in WORLD.call("GET", path, headers={"authorization": ""}).headers
