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

from hostile import checks, openapi_fuzz, overload, random_requests, raw_http, receipts, target
from hostile.contract_refusals import CONTRACT_REFUSALS
from hostile.dispatcher import Dispatcher, Findings
from hostile.http_request import Dice
from hostile.overload import NormalClient
from hostile.target import Target
from support.stack import running
from support.waiting import wait

SEED = int(os.environ.get("HOSTILE_SEED") or random.randrange(2**32))
ASKED_MIN, KNOWN_MIN = 20_000, 10_000
BY_CHANCE, RECEIPTS, MUTANTS = 16_500, 1_200, 400
SETTINGS = {"INGEST_UPLOADS_MAX": "64", "INGEST_IDLE_SECONDS": "30"}
"""All checks run at once. With fewer slots an upload would be refused for lack of a slot, not by
the check that it is meant for. The run waits for slow heads to be closed, so that takes less."""
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

    target: Target
    findings: Findings
    quiet: list[float]  # Seconds for each normal request while idle and slow connections were open.
    operations: int
    pid: int  # The process id of ingest before the attack.


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    with mock.patch.dict(os.environ, SETTINGS), running() as stack:
        attacked, findings, dice = target.create_target(stack), Findings(), Dice(SEED)
        pid = stack.pid("ingest-1")
        outcome = Outcome(attacked, findings, [], 0, pid)
        asyncio.run(attack(outcome, dice))
        began = time.monotonic()
        outcome.operations = openapi_fuzz.send_all(attacked, findings, SEED)
        say("schemathesis", began)
        asyncio.run(overrun(outcome))
        report(outcome)
        yield outcome


async def attack(outcome: Outcome, dice: Dice) -> None:
    """Open idle and slow connections, and send everything else while they stay open."""
    url, findings = outcome.target.stack.url, outcome.findings
    port = int(url.rpartition(":")[2])
    dispatcher, normal = Dispatcher(url, findings), NormalClient(outcome.target, findings)
    held = await overload.idle(port)
    slow = [asyncio.create_task(overload.slow(port, findings)) for _ in range(overload.SLOW)]
    began = time.monotonic()
    await normal.until(QUIET_SECONDS)
    outcome.quiet = normal.seconds
    began = say(f"{len(held)} idle, {len(slow)} slow", began)
    await dispatcher.send_all(checks.each(outcome.target))
    # Few connections, because many megabytes at once would keep this client busy, not ingest.
    await Dispatcher(url, findings, connections=4).send_all(checks.large(outcome.target))
    began = say("each check", began)
    await dispatcher.send_all(random_requests.draw(outcome.target, dice, BY_CHANCE))
    began = say("by chance", began)
    await dispatcher.send_all(receipts.draw(outcome.target, dice, RECEIPTS))
    began = say("receipts", began)
    await raw_http.send(port, findings, raw_http.every(outcome.target, dice, MUTANTS))
    began = say("wire", began)
    await asyncio.gather(*slow)
    for each in held:
        each.transport.abort()


async def overrun(outcome: Outcome) -> None:
    """Send more requests at once than ingest answers, so that it must refuse some."""
    began = time.monotonic()
    await overload.unfinished(outcome.target, outcome.findings)
    began = say("unfinished", began)
    await Dispatcher(outcome.target.stack.url, outcome.findings, connections=300).send_all(
        overload.young(outcome.target)
    )
    say("young", began)


def say(what: str, began: float) -> float:
    now = time.monotonic()
    print(f"  {now - began:6.1f} s  {what}", flush=True)  # noqa: T201  # progress, because a run takes minutes
    return now


def report(outcome: Outcome) -> None:
    """Print how many requests were sent and what was answered."""
    findings = outcome.findings
    hit = sum(findings.seen[refusal] > 0 for refusal in CONTRACT_REFUSALS)
    lines = (
        f"seed {SEED}: {findings.asked} requests, {findings.known} with a good key",
        f"accepted: {len(findings.accepted)}; slowest answer: {findings.slowest:.2f} s",
        f"beside idle and slow: {len(outcome.quiet)} accepted, slowest {max(outcome.quiet):.3f} s",
        "answers: " + ", ".join(f"{n} {status}" for status, n in sorted(findings.statuses.items())),
        f"checks hit: {hit} of {len(CONTRACT_REFUSALS)}",
        *(
            f"{findings.seen[each]:7} {each.status} {each.error} {each.text[:90]}"
            for each in CONTRACT_REFUSALS
        ),
    )
    print(*lines, sep="\n", flush=True)  # noqa: T201  # the report of `make hostile`


def test_enough_requests_were_sent_to_every_operation(outcome: Outcome) -> None:
    assert outcome.findings.asked >= ASKED_MIN
    assert outcome.findings.known >= KNOWN_MIN
    assert outcome.operations == 15


def test_no_request_fails_hangs_or_passes_with_a_forged_key(outcome: Outcome) -> None:
    wrong = outcome.findings.wrong
    assert not wrong, f"{len(wrong)} of them, seed {SEED}:\n" + "\n".join(wrong[:SHOWN])


def test_every_refusal_of_the_contract_was_seen(outcome: Outcome) -> None:
    assert [refusal for refusal in CONTRACT_REFUSALS if not outcome.findings.seen[refusal]] == []


def test_idle_and_slow_clients_do_not_delay_a_normal_one(outcome: Outcome) -> None:
    assert median(outcome.quiet) < PROMPT_SECONDS


def test_ingest_did_not_restart_and_logged_no_error(outcome: Outcome) -> None:
    stack = outcome.target.stack
    assert stack.pid("ingest-1") == outcome.pid
    log = stack.plan.log("ingest-1").read_text()
    assert "Traceback" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line for line in lines if line["level"] not in ("info", "warning")] == []


def test_every_accepted_request_is_stored_and_only_unsendable_ones_are_dead(
    outcome: Outcome,
) -> None:
    accepted, stack = outcome.findings.accepted, outcome.target.stack
    assert accepted
    wait(lambda: not overload.unstored(outcome.target, accepted), "every row")
    letters = json.loads(stack.courant("dead", "list", "--json"))
    assert {letter["reason"] for letter in letters} <= NOT_SENDABLE
    assert {stack.state(str(UUID(letter["key"]))) for letter in letters} <= {"technical-failure"}


def test_a_normal_email_is_delivered_after_the_attack(outcome: Outcome) -> None:
    stack = outcome.target.stack
    sent = stack.client().send_email_notification(
        "someone@example.com",
        stack.variables["COURANT_EMAIL_TEMPLATE_ID"],
        personalisation={"name": "x"},
    )
    wait(lambda: stack.state(sent["id"]) == "delivered", "its delivery")
