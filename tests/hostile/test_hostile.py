"""20,000 hostile requests to a running stack: none gets a 5xx, hangs, or passes authentication."""

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
"""All checks run at once. With fewer slots an upload would be refused for lack of a slot, not by
the check that it is meant for."""
QUIET_SECONDS = 8.0
PROMPT_SECONDS = 1.0  # For the median request, because a busy machine delays some.
SHOWN = 20  # Notes about wrong answers that are printed.
NOT_SENDABLE = {"recipient: Not a valid email address", "content: is empty"}
"""Reasons of dead letters that the contract accepts and that end as a technical failure.

They are letters outside ASCII before the @, and an email of nothing but zero-width spaces.
"""


@dataclass
class Outcome:
    """The stack after the attack, and the figures of the attack."""

    place: Place
    tally: Tally
    quiet: list[float]  # Seconds for each normal request while idle and slow connections were open.
    operations: int
    pid: int  # The process id of ingest before the attack.


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    with mock.patch.dict(os.environ, PLACES), running() as stack:
        besieged, tally, dice = place.made(stack), Tally(), Dice(SEED)
        pid = stack.pid("ingest-1")
        outcome = Outcome(besieged, tally, [], 0, pid)
        asyncio.run(attack(outcome, dice))
        began = time.monotonic()
        outcome.operations = described.ask_all(besieged, tally, SEED)
        say("schemathesis", began)
        asyncio.run(overrun(outcome))
        report(outcome)
        yield outcome


async def attack(outcome: Outcome, dice: Dice) -> None:
    """Open idle and slow connections, and send everything else while they stay open."""
    url, tally = outcome.place.stack.url, outcome.tally
    port = int(url.rpartition(":")[2])
    crowd, normal = Crowd(url, tally), Normal(outcome.place, tally)
    held = await siege.idle(port)
    slow = [asyncio.create_task(siege.slow(port, tally)) for _ in range(siege.SLOW)]
    began = time.monotonic()
    await normal.until(QUIET_SECONDS)
    outcome.quiet = normal.seconds
    began = say(f"{len(held)} idle, {len(slow)} slow", began)
    await crowd.ask(checks.each(outcome.place))
    # Few connections, because many megabytes at once would keep this client busy, not ingest.
    await Crowd(url, tally, connections=4).ask(checks.large(outcome.place))
    began = say("each check", began)
    await crowd.ask(asking.by_chance(outcome.place, dice, BY_CHANCE))
    began = say("by chance", began)
    await crowd.ask(receipts.by_chance(outcome.place, dice, RECEIPTS))
    began = say("receipts", began)
    await wire.send(port, tally, wire.every(outcome.place, dice, MUTANTS))
    began = say("wire", began)
    await asyncio.gather(*slow)
    for each in held:
        each.transport.abort()


async def overrun(outcome: Outcome) -> None:
    """Send more requests at once than ingest answers, so that it must refuse some."""
    began = time.monotonic()
    await siege.unfinished(outcome.place, outcome.tally)
    began = say("unfinished", began)
    await Crowd(outcome.place.stack.url, outcome.tally, connections=300).ask(
        siege.young(outcome.place)
    )
    say("young", began)


def say(what: str, began: float) -> float:
    now = time.monotonic()
    print(f"  {now - began:6.1f} s  {what}", flush=True)  # noqa: T201  # progress, because a run takes minutes
    return now


def report(outcome: Outcome) -> None:
    """Print how many requests were sent and what was answered."""
    tally = outcome.tally
    lines = (
        f"seed {SEED}: {tally.asked} requests, {tally.known} with a good key",
        f"accepted: {len(tally.accepted)}; slowest answer: {tally.slowest:.2f} s",
        f"beside idle clients: {len(outcome.quiet)} accepted in {max(outcome.quiet):.3f} s at most",
        "answers: " + ", ".join(f"{n} {status}" for status, n in sorted(tally.statuses.items())),
        f"checks hit: {sum(tally.seen[each] > 0 for each in PROMISED)} of {len(PROMISED)}",
        *(f"{tally.seen[each]:7} {each.status} {each.error} {each.text[:90]}" for each in PROMISED),
    )
    print(*lines, sep="\n", flush=True)  # noqa: T201  # the report of `make hostile`


def test_enough_requests_were_sent_to_every_operation(outcome: Outcome) -> None:
    assert outcome.tally.asked >= ASKED_MIN
    assert outcome.tally.known >= KNOWN_MIN
    assert outcome.operations == 15


def test_no_request_fails_hangs_or_passes_with_a_forged_key(outcome: Outcome) -> None:
    wrong = outcome.tally.wrong
    assert not wrong, f"{len(wrong)} of them, seed {SEED}:\n" + "\n".join(wrong[:SHOWN])


def test_every_refusal_of_the_contract_was_seen(outcome: Outcome) -> None:
    assert [refusal for refusal in PROMISED if not outcome.tally.seen[refusal]] == []


def test_idle_and_slow_clients_do_not_delay_a_normal_one(outcome: Outcome) -> None:
    assert median(outcome.quiet) < PROMPT_SECONDS


def test_ingest_did_not_restart_and_logged_no_error(outcome: Outcome) -> None:
    stack = outcome.place.stack
    assert stack.pid("ingest-1") == outcome.pid
    log = stack.plan.log("ingest-1").read_text()
    assert "Traceback" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line for line in lines if line["level"] not in ("info", "warning")] == []


def test_every_accepted_request_is_stored_and_only_unsendable_ones_are_dead(
    outcome: Outcome,
) -> None:
    accepted, stack = outcome.tally.accepted, outcome.place.stack
    assert accepted
    wait(lambda: not siege.unstored(outcome.place, accepted), "every row")
    letters = json.loads(stack.courant("dead", "list", "--json"))
    assert {letter["reason"] for letter in letters} <= NOT_SENDABLE
    assert {stack.state(str(UUID(letter["key"]))) for letter in letters} <= {"technical-failure"}


def test_a_normal_email_is_delivered_after_the_attack(outcome: Outcome) -> None:
    stack = outcome.place.stack
    sent = stack.client().send_email_notification(
        "someone@example.com",
        stack.variables["COURANT_EMAIL_TEMPLATE_ID"],
        personalisation={"name": "x"},
    )
    wait(lambda: stack.state(sent["id"]) == "delivered", "its delivery")
