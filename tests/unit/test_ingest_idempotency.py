"""Requests with one Idempotency-Key: by key type, at the same time, and across midnight."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
import time_machine

from courant.contracts import KeyType
from ingest.accept import idempotency
from support.ingest.world import NUMBERS, World, api_key, email, key
from support.mistakes import replace

EMAIL, BULK, JOBS = "/v2/notifications/email", "/v2/notifications/bulk", "/v2/jobs"
Ask = dict[str, Any]


def single(text: str) -> Ask:
    return {"url": EMAIL, "json": email(reference=text)}


def rows(text: str) -> Ask:
    table = [["email address", "name"], ["a@example.com", text]]
    template = email()["template_id"]
    return {"url": BULK, "json": {"template_id": template, "name": "f", "rows": table}}


def file(text: str) -> Ask:
    fields = {"template_id": (None, str(email()["template_id"])), "name": (None, "f")}
    content = f"email address,name\na@example.com,{text}\n"
    return {"url": JOBS, "files": {**fields, "file": ("f.csv", content, "text/csv")}}


EVERY_WAY = pytest.mark.parametrize("way", [single, rows, file])


async def send(world: World, asked: Ask, number: int = 1) -> httpx2.Response:
    headers = {"authorization": f"ApiKey-v1 {api_key(number)}", "idempotency-key": "k"}
    async with world.client() as client:
        return await client.post(**asked, headers=headers)


def accepted(world: World) -> list[Any]:
    """Return the notifications and jobs in the log."""
    return [*world.log.notifications(), *world.log.seals()]


def ids_in(world: World) -> set[UUID]:
    return {getattr(each, "job_id", None) or each.id for each in accepted(world)}


@EVERY_WAY
def test_each_type_of_api_key_has_its_own_idempotency_keys(way: Callable[[str], Ask]) -> None:
    world = World()
    for number in NUMBERS.values():
        asked = way("x")
        if "json" in asked and "email_address" in asked["json"]:
            asked["json"]["email_address"] = "friend@example.com"  # on the safelist
        elif "json" in asked:
            asked["json"]["rows"][1][0] = "friend@example.com"
        else:
            name, content, kind = asked["files"]["file"]
            safe = content.replace("a@example.com", "friend@example.com")
            asked["files"]["file"] = (name, safe, kind)
        answer = asyncio.run(send(world, asked, number))
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, None)
        world.rows.save()
    assert [each.key_type for each in accepted(world)] == [*KeyType]
    assert len(ids_in(world)) == len({each.idempotency_key for each in accepted(world)}) == 3


@EVERY_WAY
def test_a_rotated_api_key_of_one_type_repeats_the_same_request(way: Callable[[str], Ask]) -> None:
    world = World()
    world.change(key(9))
    for number in (1, 9):
        assert asyncio.run(send(world, way("x"), number)).status_code == 201
    assert len(ids_in(world)) == 1


async def at_once(world: World, asked: list[Ask]) -> list[int]:
    """Send requests while the log acknowledges nothing; return the statuses of the answers."""
    world.log.stand_still()
    sending = [asyncio.ensure_future(send(world, each)) for each in asked]
    for _ in range(300):
        await asyncio.sleep(0.001)
    world.log.go_on()
    return sorted(answer.status_code for answer in await asyncio.gather(*sending))


def test_of_different_bodies_at_the_same_time_one_is_accepted() -> None:
    world = World()
    statuses = asyncio.run(at_once(world, [single(str(n)) for n in range(6)]))
    assert statuses == [201, 409, 409, 409, 409, 409]
    assert len(accepted(world)) == 1


@pytest.mark.parametrize("way", [rows, file])
def test_of_different_files_at_the_same_time_one_becomes_a_job(way: Callable[[str], Ask]) -> None:
    world = World()
    world.log.stand_still()

    async def together() -> list[int]:
        sending = [asyncio.ensure_future(send(world, way(str(n)))) for n in range(2)]
        await asyncio.sleep(0.3)
        world.log.go_on()
        return sorted(answer.status_code for answer in await asyncio.gather(*sending))

    assert asyncio.run(together()) == [201, 409]
    assert len(world.log.seals()) == 1


@EVERY_WAY
def test_the_same_body_at_the_same_time_has_one_id(way: Callable[[str], Ask]) -> None:
    world = World()
    at_once_max = 6 if way is single else 2
    assert asyncio.run(at_once(world, [way("x")] * at_once_max)) == [201] * at_once_max
    assert len(ids_in(world)) == 1


@EVERY_WAY
def test_a_refused_request_leaves_its_key_free(way: Callable[[str], Ask]) -> None:
    world = World()
    bad = way("x")
    if "json" in bad:
        bad["json"]["template_id"] = str(UUID(int=1))
    else:
        bad["files"]["template_id"] = (None, str(UUID(int=1)))
    assert asyncio.run(send(world, bad)).status_code == 400
    assert asyncio.run(send(world, way("x"))).status_code == 201


@EVERY_WAY
def test_a_request_that_may_be_in_the_log_keeps_its_key(way: Callable[[str], Ask]) -> None:
    world = World()
    world.log.stand_still(deadline_seconds=0)
    assert asyncio.run(send(world, way("x"))).status_code == 503
    world.log.go_on()
    reused = asyncio.run(send(world, way("y"))).status_code
    assert reused == (409 if way is single else 201)  # a file without a seal is no job
    assert asyncio.run(send(world, single("x"))).status_code == 201


@EVERY_WAY
def test_a_repetition_after_midnight_keeps_its_id(way: Callable[[str], Ask]) -> None:
    world = World()
    with time_machine.travel(datetime(2026, 3, 4, 23, 59, 59, tzinfo=UTC), tick=False) as clock:
        assert asyncio.run(send(world, way("x"))).status_code == 201
        clock.move_to(datetime(2026, 3, 5, 0, 0, 1, tzinfo=UTC))
        assert asyncio.run(send(world, way("x"))).status_code == 201
        assert asyncio.run(send(world, way("y"))).status_code == 409
        assert len(ids_in(world)) == 1
        clock.move_to(datetime(2026, 3, 7, 0, 0, 0, tzinfo=UTC))
        assert asyncio.run(send(world, way("y"))).status_code == 201
    assert len(ids_in(world)) == 2


@EVERY_WAY
def test_two_processes_give_the_same_body_one_id_and_another_body_its_own(
    way: Callable[[str], Ask],
) -> None:
    with time_machine.travel(datetime(2026, 3, 4, 12, tzinfo=UTC), tick=False):
        one, two, three = World(), World(), World()
        for world, text in ((one, "x"), (two, "x"), (three, "y")):
            assert asyncio.run(send(world, way(text))).status_code == 201
    assert ids_in(one) == ids_in(two) != ids_in(three)


def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "REMEMBERED_MAX", 2)
    world = World()
    for text in ("a", "b", "c"):
        headers = {"idempotency-key": text}
        assert world.post(EMAIL, email(), **headers).status_code == 201
    other = email(reference="other")
    assert world.post(EMAIL, other, **{"idempotency-key": "c"}).status_code == 409
    assert world.post(EMAIL, other, **{"idempotency-key": "a"}).status_code == 201


def test_a_reused_key_is_refused_with_the_contracts_text() -> None:
    world = World()
    assert asyncio.run(send(world, single("x"))).status_code == 201
    answer = asyncio.run(send(world, single("y")))
    assert json.loads(answer.content)["errors"][0] == {
        "error": "ConflictError",
        "message": "Idempotency-Key has been used with another body in the last 48 hours",
    }


MISTAKES: dict[str, tuple[Any, str, str, str, Callable[[], None]]] = {
    "the key type left out": (
        idempotency,
        "read_key",
        "caller.key.type.encode()",
        'b""',
        lambda: test_each_type_of_api_key_has_its_own_idempotency_keys(single),
    ),
    "another body not noticed": (
        idempotency.RecentKeys,
        "is_reused",
        "known.body_hash != body_hash",
        "False",
        test_of_different_bodies_at_the_same_time_one_is_accepted,
    ),
    "remembered for ever": (
        idempotency.RecentKeys,
        "_known",
        "now - known.at < KEPT",
        "True",
        lambda: test_a_repetition_after_midnight_keeps_its_id(single),
    ),
    "a new id after midnight": (
        idempotency.RecentKeys,
        "id_of",
        "known.id if known else ",
        "",
        lambda: test_a_repetition_after_midnight_keeps_its_id(rows),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tests_detect_the_mistake(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *where, test = MISTAKES[mistake]
    replace(monkeypatch, *where)
    with pytest.raises(AssertionError):
        test()
