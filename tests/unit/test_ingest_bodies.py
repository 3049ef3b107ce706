"""Bodies that are incomplete, slow, deeply nested or too large are answered with an error."""

import asyncio
import json
from typing import Any

import pytest

from ingest.http import asgi
from support.ingest.world import World, api_key, email, messages
from support.waiting import WAIT_SECONDS

WORLD = World()


def test_a_record_that_would_be_too_large_is_rejected_before_it_is_written() -> None:
    world = World()
    for size, status in ((1_900_000, 201), (2_200_000, 413), (5_000_000, 413)):
        assert (
            world.post("/v2/notifications/email", email(reference="r" * size)).status_code == status
        )
    assert len(world.log.records) == 1


async def answer_to(world: World, receive: Any) -> tuple[int, Any]:
    """Call the application with the body that `receive` yields. Returns status and message."""
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


def test_an_incomplete_body_is_answered_400() -> None:
    parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return parts.pop(0)

    assert asyncio.run(answer_to(World(), receive)) == (400, "The request's body broke off")


@pytest.mark.parametrize("pause", [1.0, 0.02], ids=["nothing", "a byte now and then"])
def test_a_body_that_does_not_arrive_is_answered_408_and_leaves_flight(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "PART_SECONDS", 0.1)
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.3)
    world = World()

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def call() -> tuple[int, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await answer_to(world, receive)

    assert asyncio.run(call()) == (408, "The request's body did not come in time")
    assert world.app.in_flight == 0


@pytest.mark.parametrize("around", ['{"reference": %s}', '{"personalisation": {"name": %s}}', "%s"])
def test_a_deeply_nested_body_does_not_exhaust_the_stack(around: str) -> None:
    # At some depths Python's stack suffices to read the body but not to print it into the error.
    for depth in (*range(900, 1_000), 10_000):
        body = around % ("[" * depth + "]" * depth)
        headers = {"content-type": "application/json"}
        answer = WORLD.call("POST", "/v2/notifications/email", content=body, headers=headers)
        assert messages(answer)[0].startswith("Error decoding arguments"), depth


def test_many_brackets_without_deep_nesting_are_accepted() -> None:
    values = {"name": "[{" * 500, "list": [[each] for each in range(500)]}
    assert WORLD.post("/v2/notifications/email", email(personalisation=values)).status_code == 201


def test_an_answer_before_the_body_was_read_closes_the_connection() -> None:
    path = "/v2/notifications/email"
    early = WORLD.call("POST", path, json=email(), headers={"authorization": ""})
    assert (early.status_code, early.headers["connection"]) == (401, "close")
    assert "connection" not in WORLD.post(path, email()).headers
    assert "connection" not in WORLD.call("GET", path, headers={"authorization": ""}).headers
