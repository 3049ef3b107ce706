"""Records that cannot be handled end as one dead letter each, and the good ones are all sent.

Good and bad records are written mixed, because a topic holds them side by side.
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
from integration.poison_kinds import (
    INBOX_EMAIL,
    MIB,
    PERSON,
    RULED_OUT,
    NotificationMaker,
    Poison,
    inbox,
    poison_of_each_kind,
)
from support.stack import Stack
from support.waiting import WAIT_SECONDS, wait

RULE = f"ALTER TABLE notifications ADD CONSTRAINT ruled CHECK (reference <> '{RULED_OUT}')"
NO_RULE = "ALTER TABLE notifications DROP CONSTRAINT ruled"
STAY = {"more than anyone may write", "an order of another key"}
"""Kinds whose dead letter is not sent back."""


@dataclass
class Story:
    """The records that were written, and their dead letters before the repair."""

    stack: Stack
    maker: NotificationMaker
    good: list[UUID]
    poisons: dict[str, Poison]
    stranger: UUID  # The id of a template that does not exist.
    lost: Notification  # A notification without a row.
    redriven: str = ""
    before: list[dict[str, Any]] = field(default_factory=list)  # The letters before the repair.

    def letters(self) -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = json.loads(self.stack.courant("dead", "list", "--json"))
        return letters

    def of(self, name: str, letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the letters of one poison; its family and key identify it."""
        poison = self.poisons[name]
        prefix, key = f"{poison.family}.dead/", poison.record.key.hex()
        mine = [letter for letter in letters if letter["key"] == key]
        return [letter for letter in mine if letter["number"].startswith(prefix)]


def write(stack: Stack, records: list[Outgoing]) -> None:
    """Write records as a foreign program might: larger than Courant's own, and compressed."""
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
    maker = NotificationMaker(stack)
    stranger = uuid4()
    # It is due only tomorrow, so only the records of its call can move it.
    lost = maker.notification(scheduled_for=datetime.now(UTC) + timedelta(days=1))
    stored, large = maker.notification(), maker.notification()
    write(stack, [inbox(stored)])
    wait(lambda: stack.state(stored.id) == "delivered", "a first one")
    stack.sql(RULE)
    poisons = poison_of_each_kind(maker, stranger, lost, stored.id)
    good = [maker.notification() for _ in range(500)]
    records = [inbox(each) for each in good]
    for number, poison in enumerate(poisons.values(), start=1):
        records.insert(number * len(records) // (len(poisons) + 1), poison.record)
    records.append(inbox(large, a_later_field="x" * 2 * MIB))
    write(stack, records)
    ids = [each.id for each in (stored, *good, large)]
    story = Story(stack, maker, ids, poisons, stranger, lost)
    # An order with an unknown template is retried twice, after 10 and 20 seconds with jitter.
    wait(lambda: len(story.letters()) >= len(poisons), "the letters")
    wait(lambda: not unsent(story), "the good ones")
    story.before = story.letters()
    return story


def unsent(story: Story) -> list[UUID]:
    """Return the ids of good notifications that are not delivered."""
    delivered = story.stack.sql(
        "SELECT id FROM notifications WHERE state = 'delivered' AND id = ANY(%s::uuid[])",
        [str(each) for each in story.good],
    )
    return sorted(set(story.good) - {UUID(str(id)) for (id,) in delivered})


def test_each_kind_ends_as_one_dead_letter_with_its_reason(story: Story) -> None:
    assert len(story.before) == len(story.poisons)
    for name, poison in story.poisons.items():
        letters = story.of(name, story.before)
        assert [poison.reason in each["reason"] for each in letters] == [True], (name, letters)
        assert letters[0]["tries"] == 1
        assert letters[0]["sent_back"] == ""


def test_no_reason_contains_personal_data(story: Story) -> None:
    table = story.stack.courant("dead", "list")
    assert PERSON not in table
    for each in story.before:
        assert each["number"] in table
        assert each["reason"] in table
        assert PERSON.split("@")[0] not in each["reason"]


def test_every_good_notification_is_sent_once(story: Story) -> None:
    assert unsent(story) == []
    asked = Counter(story.stack.sendings())
    assert {asked[str(each)] for each in story.good} == {1}


def test_a_dead_letter_shows_its_origin_and_its_bytes(story: Story) -> None:
    [letter] = story.of("an unknown word", story.before)
    shown = story.stack.courant("dead", "show", letter["number"])
    assert f"courant.origin: {INBOX_EMAIL}/" in shown
    assert "Invalid enum value - at `$.lane`" in shown
    assert f'"lane":"{PERSON}"' in shown


def test_dead_letters_that_are_redriven_after_the_repair_are_delivered(story: Story) -> None:
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
    lines = stack.courant("dead", "redrive", "all").splitlines()
    assert len(lines) == len(story.before)
    # A record too large to be written cannot be sent back. An order without a row need not be.
    assert sum("sent back to" in line for line in lines) == len(lines) - 2
    assert sum("too large" in line for line in lines) == 1
    assert sum("nothing to do" in line for line in lines) == 1
    well = {each.id for each in story.poisons.values() if each.end == "delivered" and each.id}
    wait(lambda: {stack.state(each) for each in well} == {"delivered"}, "the repaired")
    asked = Counter(stack.sendings())
    for name in ("an unknown template", "a row that the database's owner rules out"):
        assert asked[str(story.poisons[name].id)] == 1
    # The records of its call report that another process has made the call.
    assert asked[str(story.lost.id)] == 0
    again = [
        each for name, each in story.poisons.items() if each.end == "dead" and name not in STAY
    ]
    wait(lambda: len(story.letters()) >= len(story.before) + len(again), "the others' letters")


def test_letters_that_were_not_repaired_are_dead_again(story: Story) -> None:
    letters = story.letters()
    for name, poison in story.poisons.items():
        tries = [each["tries"] for each in story.of(name, letters)]
        once = poison.end == "delivered" or name in STAY
        assert tries == ([1] if once else [1, 2]), name


def test_a_dead_letter_records_the_user_that_sent_it_back(story: Story) -> None:
    user = getpass.getuser()
    letters = story.letters()
    [first, second] = story.of("not JSON", letters)
    assert first["sent_back"].startswith(f"{user}, ")
    assert second["sent_back"] == ""
    assert f"courant.redriven-by: {user}" in story.stack.courant("dead", "show", second["number"])


def test_a_dead_letter_is_not_sent_back_twice_by_mistake(story: Story) -> None:
    [first, _] = story.of("not JSON", story.letters())
    output = story.stack.courant("dead", "redrive", first["number"])
    assert "was sent back before" in output
