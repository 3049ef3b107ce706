"""Poison in the topics of a running stack: each ends as one dead letter, and all others are sent.

All of it is written at once, the good ones around it, since in a topic they come together.
"""

import getpass
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer

from courant.contracts import Notification
from courant.directory import publish
from courant.directory.entries import Template
from courant.records import Outgoing
from courant.topics import Channel
from integration.poison_kinds import INBOX_EMAIL, MIB, PERSON, RULED_OUT, Hand, Poison, inbox, made
from support.stack import Stack
from support.waiting import WAIT_SECONDS, wait

RULE = f"ALTER TABLE notifications ADD CONSTRAINT ruled CHECK (reference <> '{RULED_OUT}')"
NO_RULE = "ALTER TABLE notifications DROP CONSTRAINT ruled"
STAY = {"more than anyone may write", "an order of another key"}
"""Kinds whose letter is not sent back."""


@dataclass
class Story:
    """What was written, and what became of it."""

    stack: Stack
    hand: Hand
    good: list[UUID]
    poisons: dict[str, Poison]
    stranger: UUID  # a template that is not there
    lost: Notification  # a row that is not there
    redriven: str = ""
    before: list[dict[str, Any]] = field(default_factory=list)  # the letters, before the repair

    def letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.stack.courant("dead", "list", "--json"))
        return found

    def of(self, name: str, letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give the letters of one poison, by its family and key, which no other has."""
        poison = self.poisons[name]
        place, key = f"{poison.family}.dead/", poison.record.key.hex()
        return [each for each in letters if each["number"].startswith(place) and each["key"] == key]


def write(stack: Stack, records: list[Outgoing]) -> None:
    """Write as somebody else's program might: what its settings allow, packed small."""
    producer = Producer(
        {
            "bootstrap.servers": stack.plan.bootstrap,
            "message.max.bytes": 100 * MIB,
            "compression.type": "lz4",
            "linger.ms": 50,
        }
    )
    for each in records:
        producer.produce(
            stack.installation.cluster.topic(each.topic), key=each.key, value=each.value
        )
    assert producer.flush(WAIT_SECONDS) == 0


@pytest.fixture(scope="module")
def story(stack: Stack) -> Story:
    hand = Hand(stack)
    stranger = uuid4()
    # It is due only tomorrow: nobody but the records of its call will move it.
    lost = hand.notification(scheduled_for=datetime.now(UTC) + timedelta(days=1))
    stored, large = hand.notification(), hand.notification()
    write(stack, [inbox(stored)])
    wait(lambda: stack.state(stored.id) == "delivered", "a first one")
    stack.sql(RULE)
    poisons = made(hand, stranger, lost, stored.id)
    good = [hand.notification() for _ in range(500)]
    records = [inbox(each) for each in good]
    for number, poison in enumerate(poisons.values(), start=1):
        records.insert(number * len(records) // (len(poisons) + 1), poison.record)
    records.append(inbox(large, a_later_field="x" * 2 * MIB))
    write(stack, records)
    told = Story(stack, hand, [each.id for each in (stored, *good, large)], poisons, stranger, lost)
    # A template that nobody knows is waited for twice, 10 and 20 seconds with jitter.
    wait(lambda: len(told.letters()) >= len(poisons), "the letters")
    wait(lambda: not unsent(told), "the good ones")
    told.before = told.letters()
    return told


def unsent(story: Story) -> list[UUID]:
    """Give those of the good ones that are not delivered."""
    found = story.stack.sql(
        "SELECT id FROM notifications WHERE state = 'delivered' AND id = ANY(%s::uuid[])",
        [str(each) for each in story.good],
    )
    return sorted(set(story.good) - {UUID(str(id)) for (id,) in found})


def test_each_kind_ends_as_one_letter_with_its_reason(story: Story) -> None:
    assert len(story.before) == len(story.poisons)
    for name, poison in story.poisons.items():
        letters = story.of(name, story.before)
        assert [poison.reason in each["reason"] for each in letters] == [True], (name, letters)
        assert letters[0]["tries"] == 1
        assert letters[0]["sent_back"] == ""


def test_no_reason_holds_what_is_personal(story: Story) -> None:
    table = story.stack.courant("dead", "list")
    assert PERSON not in table
    for each in story.before:
        assert each["number"] in table
        assert each["reason"] in table
        assert PERSON.split("@")[0] not in each["reason"]


def test_every_good_one_is_sent_once(story: Story) -> None:
    assert unsent(story) == []
    asked = Counter(story.stack.sendings())
    assert {asked[str(each)] for each in story.good} == {1}


def test_a_letter_shows_where_it_came_from_and_its_bytes(story: Story) -> None:
    [letter] = story.of("an unknown word", story.before)
    shown = story.stack.courant("dead", "show", letter["number"])
    assert f"courant.origin: {INBOX_EMAIL}/" in shown
    assert "Invalid enum value - at `$.lane`" in shown
    assert f'"lane":"{PERSON}"' in shown


def test_after_the_repair_letters_are_sent_back_and_end_well(story: Story) -> None:
    stack = story.stack
    template = Template(
        id=story.stranger,
        version=1,
        service_id=UUID(stack.variables["COURANT_SERVICE_ID"]),
        channel=Channel.EMAIL,
        name="Found again",
        subject="Found",
        body="Hello ((name))",
        created_at=datetime.now(UTC),
    )
    publish.put(stack.installation.engine, stack.installation.producer, template)
    stack.sql(NO_RULE)
    write(stack, [inbox(story.lost)])
    wait(lambda: stack.state(story.lost.id) == "created", "the row that was lost")
    said = stack.courant("dead", "redrive", "all").splitlines()
    assert len(said) == len(story.before)
    # What is too large to be written cannot be sent back, an order without a row need not be.
    assert sum("sent back to" in each for each in said) == len(said) - 2
    assert sum("too large" in each for each in said) == 1
    assert sum("nothing to do" in each for each in said) == 1
    well = {each.id for each in story.poisons.values() if each.end == "delivered" and each.id}
    wait(lambda: {stack.state(each) for each in well} == {"delivered"}, "the repaired")
    asked = Counter(stack.sendings())
    for name in ("an unknown template", "a row that the database's owner rules out"):
        assert asked[str(story.poisons[name].id)] == 1
    assert asked[str(story.lost.id)] == 0  # its call was another's, and is known to have been
    again = [
        each for name, each in story.poisons.items() if each.end == "dead" and name not in STAY
    ]
    wait(lambda: len(story.letters()) >= len(story.before) + len(again), "the others' letters")


def test_what_was_not_repaired_is_dead_again(story: Story) -> None:
    letters = story.letters()
    for name, poison in story.poisons.items():
        tries = [each["tries"] for each in story.of(name, letters)]
        once = poison.end == "delivered" or name in STAY
        assert tries == ([1] if once else [1, 2]), name


def test_who_sent_a_letter_back_is_recorded(story: Story) -> None:
    who = getpass.getuser()
    letters = story.letters()
    [first, second] = story.of("not JSON", letters)
    assert first["sent_back"].startswith(f"{who}, ")
    assert second["sent_back"] == ""
    assert f"courant.redriven-by: {who}" in story.stack.courant("dead", "show", second["number"])


def test_a_letter_is_not_sent_back_twice_by_mistake(story: Story) -> None:
    [first, _] = story.of("not JSON", story.letters())
    said = story.stack.courant("dead", "redrive", first["number"])
    assert "was sent back before" in said
