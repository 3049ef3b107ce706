"""Bodies that are incomplete, slow, deeply nested or too large are answered with an error."""

import asyncio
import json
from typing import Any

import pytest

from ingest.http import asgi
from ingest.http.budget import SMALL_BYTES, BodyBudget, HeldBody
from support.ingest.world import World, api_key, email, messages
from support.waiting import WAIT_SECONDS

WORLD = World()
EMAIL = "/v2/notifications/email"
KIB = 1024
MIB = 1024 * KIB
TOO_LARGE = (413, "The request is larger than this server takes")
BUSY = (503, "Too many requests are being answered, try again")


def test_a_record_that_would_be_too_large_is_rejected_before_it_is_written() -> None:
    world = World()
    for size, status in ((1_900_000, 201), (2_200_000, 413), (5_000_000, 413)):
        assert (
            world.post("/v2/notifications/email", email(reference="r" * size)).status_code == status
        )
    assert len(world.log.records) == 1


async def answer_to(world: World, receive: Any, path: str = EMAIL, **more: str) -> tuple[int, Any]:
    """Call the application with the body that `receive` yields. Returns status and message."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"authorization", f"ApiKey-v1 {api_key(1)}".encode()),
        (b"content-type", b"application/json"),
        *((name.replace("_", "-").encode(), value.encode()) for name, value in more.items()),
    ]
    scope = {"type": "http", "method": "POST", "path": path}
    await world.app({**scope, "query_string": b"", "headers": headers}, receive, send)
    errors = json.loads(sent[1]["body"]).get("errors")
    return sent[0]["status"], errors[0]["message"] if errors else None


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


def test_a_body_of_very_many_values_is_rejected_before_it_is_decoded() -> None:
    headers = {"content-type": "application/json"}
    for value in ("[]", "{}", "1", '"a"', '{"a":1}'):
        body = f'{{"personalisation": {{"name": [{",".join([value] * 100_001)}]}}}}'
        answer = WORLD.call("POST", EMAIL, content=body, headers=headers)
        assert (answer.status_code, messages(answer)[0]) == TOO_LARGE, value
    # Commas in a text are not values, as long as there are no more of them than a text may have.
    text = "a, " * 15_000
    assert WORLD.post(EMAIL, email(personalisation={"name": text})).status_code == 201


class Sender:
    """A client that sends a body in parts, each when the test lets it."""

    def __init__(self, *parts: bytes, ends: bool = True) -> None:
        self._parts, self._ends = list(parts), ends
        self.stuck = asyncio.Event()  # set when all parts are sent and the body goes on

    async def __call__(self) -> Any:
        if not self._parts and not self._ends:
            self.stuck.set()
            await asyncio.sleep(WAIT_SECONDS)
        body = self._parts.pop(0)
        more = bool(self._parts) or not self._ends
        return {"type": "http.request", "body": body, "more_body": more}


def small_world() -> World:
    """Return a world whose budget is 4 MiB: 3 for large bodies, 1 for those of strangers."""
    return World(ingest_body_bytes_max=2 * MIB, ingest_bodies_bytes_max=4 * MIB)


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_bodies_that_find_no_room_get_503_and_small_ones_pass(announced: bool) -> None:
    world = small_world()

    async def scene() -> None:
        held = [Sender(b"x" * MIB, ends=False) for _ in range(2)]
        held.append(Sender(b"x" * (MIB - 10), ends=False))
        slow = [asyncio.create_task(answer_to(world, sender)) for sender in held]
        await asyncio.gather(*(sender.stuck.wait() for sender in held))
        assert world.app.budget.in_use_bytes == 3 * MIB - 10
        length = {"content_length": str(100 * KIB)} if announced else {}
        parts = [b"x" * (50 * KIB)] * 2
        assert await answer_to(world, Sender(*parts), **length) == BUSY
        receipt = await answer_to(world, Sender(*parts), "/receipts", **length)
        assert receipt == (503, "Too many requests are being answered, try again")
        body = json.dumps(email()).encode()
        small = await answer_to(world, Sender(body), content_length=str(len(body)))
        assert small == (201, None)
        assert world.app.budget.in_use_bytes == 3 * MIB - 10
        for task in slow:
            task.cancel()  # their clients disconnect
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(scene())
    assert world.app.budget.in_use_bytes == 0


def test_what_a_client_announces_and_does_not_send_takes_no_room() -> None:
    world = small_world()

    async def scene() -> None:
        held = [Sender(b"{", ends=False) for _ in range(50)]
        length = {"content_length": str(2 * MIB)}
        slow = [asyncio.create_task(answer_to(world, sender, **length)) for sender in held]
        await asyncio.gather(*(sender.stuck.wait() for sender in held))
        assert world.app.budget.in_use_bytes == 50
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(scene())
    assert world.app.budget.in_use_bytes == 0


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        ("/receipts", MIB, 403),
        ("/receipts", MIB + 1, 413),
        ("/receipts/heartbeat", KIB, 403),
        ("/receipts/heartbeat", KIB + 1, 413),
        (EMAIL, 15 * MIB, 400),
        (EMAIL, 15 * MIB + 1, 413),
    ],
)
@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_each_route_has_its_own_limit(path: str, size: int, expected: int, announced: bool) -> None:
    world = World()

    async def call() -> tuple[int, Any]:
        parts = [b"x" * (64 * KIB)] * (size // (64 * KIB)) + [b"x" * (size % (64 * KIB))]
        length = {"content_length": str(size)} if announced else {}
        return await answer_to(world, Sender(*parts), path, **length)

    assert asyncio.run(call())[0] == expected
    assert world.app.budget.in_use_bytes == 0


def test_the_budget_is_released_however_the_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(asgi, "PART_SECONDS", 0.05)

    async def breaks_off() -> Any:
        message = parts.pop(0)
        if isinstance(message, Exception):
            raise message
        return message

    part = {"type": "http.request", "body": b"x" * 1_000, "more_body": True}
    endings = [{"type": "http.disconnect"}, OSError("the socket is gone")]
    for ending, status in zip(endings, (400, 500), strict=True):
        parts: list[Any] = [part, ending]
        assert asyncio.run(answer_to(world, breaks_off))[0] == status
    assert asyncio.run(answer_to(world, Sender(b"x", ends=False)))[0] == 408
    world.log.stand_still(deadline_seconds=0)
    assert world.post(EMAIL, email()).status_code == 503
    assert world.app.budget.in_use_bytes == 0


def test_strangers_leave_room_for_clients_and_large_bodies_for_small_ones() -> None:
    budget = BodyBudget(8 * MIB)

    def fill(part: int, of: int, stranger: bool) -> int:
        """Return the MiB that bodies of this size can fill from an empty budget."""
        budget.in_use_bytes = 0
        while HeldBody(budget, stranger, of - part).take(part):
            pass
        return round(budget.in_use_bytes / MIB)

    small, large = SMALL_BYTES, 2 * SMALL_BYTES
    assert [fill(small, of, stranger) for of in (large, small) for stranger in (True, False)] == [
        2, 6, 7, 8,
    ]  # fmt: skip
