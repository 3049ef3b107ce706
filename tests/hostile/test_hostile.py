"""Twenty thousand hostile requests to a stack: none fails, is stuck, or gets through."""

import asyncio
import json
import os
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from unittest import mock
from uuid import UUID

import pytest

from hostile import asking, checks, described, place, receipts, siege, wire
from hostile.asks import Dice
from hostile.crowd import Crowd, Tally
from hostile.place import Place
from hostile.promised import PROMISED
from hostile.siege import Normal
from support.stack import running
from support.waiting import wait

SEED = int(os.environ.get("HOSTILE_SEED") or random.randrange(2**32))
ASKED_MIN, KNOWN_MIN = 20_000, 10_000
BY_CHANCE, RECEIPTS, MUTANTS = 16_500, 1_200, 400
PLACES = {"INGEST_UPLOADS_MAX": "64"}
"""All checks come at once, and each is to hear its own refusal, not that too many files come."""
QUIET_SECONDS = 8.0
PROMPT_SECONDS = 1.0  # for half of the requests: a busy machine delays some
SHOWN = 20  # of what was wrong
NOT_SENDABLE = {"recipient: Not a valid email address", "content: is empty"}
"""What is accepted by the contract and ends as a technical failure: letters outside ASCII before
the @, and an email of nothing but zero-width spaces."""


@dataclass
class Outcome:
    """What came of all of it."""

    place: Place
    tally: Tally
    quiet: list[float]  # seconds that the normal client waited while connections were held
    operations: int
    pid: int  # of ingest, before


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    with mock.patch.dict(os.environ, PLACES), running() as stack:
        besieged, tally, dice = place.made(stack), Tally(), Dice(SEED)
        pid = stack.pid("ingest-1")
        told = Outcome(besieged, tally, [], 0, pid)
        asyncio.run(attack(told, dice))
        began = time.monotonic()
        told.operations = described.ask_all(besieged, tally, SEED)
        say("schemathesis", began)
        asyncio.run(overrun(told))
        report(told)
        yield told


async def attack(told: Outcome, dice: Dice) -> None:
    """Hold connections; then ask everything else while they are held."""
    url, tally = told.place.stack.url, told.tally
    port = int(url.rpartition(":")[2])
    crowd, normal = Crowd(url, tally), Normal(told.place, tally)
    held = await siege.idle(port)
    slow = [asyncio.create_task(siege.slow(port, tally)) for _ in range(siege.SLOW)]
    began = time.monotonic()
    await normal.until(QUIET_SECONDS)
    told.quiet = normal.seconds
    began = say(f"{len(held)} idle, {len(slow)} slow", began)
    await crowd.ask(checks.each(told.place))
    # Few at once: to send as many megabytes would keep this side busy, and not the other.
    await Crowd(url, tally, connections=4).ask(checks.large(told.place))
    began = say("each check", began)
    await crowd.ask(asking.by_chance(told.place, dice, BY_CHANCE))
    began = say("by chance", began)
    await crowd.ask(receipts.by_chance(told.place, dice, RECEIPTS))
    began = say("receipts", began)
    await wire.send(port, tally, wire.every(told.place, dice, MUTANTS))
    began = say("wire", began)
    await asyncio.gather(*slow)
    for each in held:
        each.transport.abort()


async def overrun(told: Outcome) -> None:
    """Come in such numbers that some must be refused."""
    began = time.monotonic()
    await siege.unfinished(told.place, told.tally)
    began = say("unfinished", began)
    await Crowd(told.place.stack.url, told.tally, connections=300).ask(siege.young(told.place))
    say("young", began)


def say(what: str, began: float) -> float:
    now = time.monotonic()
    print(f"  {now - began:6.1f} s  {what}", flush=True)  # noqa: T201  # a run of minutes
    return now


def report(told: Outcome) -> None:
    """Print what was asked and answered."""
    tally = told.tally
    lines = (
        f"seed {SEED}: {tally.asked} requests, {tally.known} with a good key",
        f"accepted: {len(tally.accepted)}; slowest answer: {tally.slowest:.2f} s",
        f"beside idle and slow ones: {len(told.quiet)} accepted in {max(told.quiet):.3f} s at most",
        "answers: " + ", ".join(f"{n} {status}" for status, n in sorted(tally.statuses.items())),
        f"checks hit: {sum(tally.seen[each] > 0 for each in PROMISED)} of {len(PROMISED)}",
        *(f"{tally.seen[each]:7} {each.status} {each.error} {each.text[:90]}" for each in PROMISED),
    )
    print(*lines, sep="\n", flush=True)  # noqa: T201  # to who runs it


def test_there_were_as_many_as_were_to_be(outcome: Outcome) -> None:
    assert outcome.tally.asked >= ASKED_MIN
    assert outcome.tally.known >= KNOWN_MIN
    assert outcome.operations == 15


def test_nothing_fails_is_stuck_or_gets_through(outcome: Outcome) -> None:
    wrong = outcome.tally.wrong
    assert not wrong, f"{len(wrong)} of them, seed {SEED}:\n" + "\n".join(wrong[:SHOWN])


def test_every_refusal_that_is_promised_was_seen(outcome: Outcome) -> None:
    assert [each for each in PROMISED if not outcome.tally.seen[each]] == []


def test_a_normal_client_is_served_at_once_beside_idle_and_slow_ones(outcome: Outcome) -> None:
    assert median(outcome.quiet) < PROMPT_SECONDS


def test_ingest_is_the_process_that_it_was_and_has_no_error_to_tell(outcome: Outcome) -> None:
    stack = outcome.place.stack
    assert stack.pid("ingest-1") == outcome.pid
    log = stack.plan.log("ingest-1").read_text()
    assert "Traceback" not in log
    lines = [json.loads(each) for each in log.splitlines()]
    assert [each for each in lines if each["level"] not in ("info", "warning")] == []


def test_what_was_accepted_is_stored_and_dead_is_only_what_nobody_can_get(outcome: Outcome) -> None:
    accepted, stack = outcome.tally.accepted, outcome.place.stack
    assert accepted
    wait(lambda: not siege.unstored(outcome.place, accepted), "every row")
    letters = json.loads(stack.courant("dead", "list", "--json"))
    assert {each["reason"] for each in letters} <= NOT_SENDABLE
    assert {stack.state(str(UUID(each["key"]))) for each in letters} <= {"technical-failure"}


def test_afterwards_a_good_request_is_accepted_and_delivered(outcome: Outcome) -> None:
    stack = outcome.place.stack
    sent = stack.client().send_email_notification(
        "someone@example.com",
        stack.variables["COURANT_EMAIL_TEMPLATE_ID"],
        personalisation={"name": "x"},
    )
    wait(lambda: stack.state(sent["id"]) == "delivered", "its delivery")
