"""The saver's rules, one record at a time: no fakes needed."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.contracts import Receipt, UnreadPost
from courant.lifecycle import Move
from courant.records import Dead, Keep, Record
from courant.testing.builders import (
    NOW,
    decided,
    id_of,
    notification,
    outcomes,
    partition,
    record,
    untagged,
)
from saver import rules

GOOD = record(notification(1, reference="order 17"))


def newer(readable_from: int) -> Record:
    said = f'"readable_from":{readable_from},"colour":"red"'.encode()
    return replace(GOOD, value=GOOD.value.replace(b'"readable_from":1', said))


def test_a_good_record_is_kept() -> None:
    assert rules.read_inbox(GOOD) == Keep(GOOD, notification(1, reference="order 17"))


def test_a_newer_writers_record_is_read_while_it_says_that_it_suits() -> None:
    assert isinstance(rules.read_inbox(newer(readable_from=1)), Keep)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, value=b"\xff"), "JSON is malformed"),
        (replace(GOOD, value=b"{}"), "Object missing required field `id`"),
        (newer(readable_from=2), "newer than this reader"),
        (replace(GOOD, key=UUID(int=2).bytes), "key: is not the id"),
        (replace(GOOD, partition=partition("inbox.sms.normal")), "topic: is not"),
        (replace(GOOD, timestamp=NOW + timedelta(days=16)), "id: its day is too far"),
        (replace(GOOD, timestamp=NOW - timedelta(days=3)), "id: its day is too far"),
    ],
)
def test_a_bad_record_is_dead_and_says_why(bad: Record, reason: str) -> None:
    verdict = rules.read_inbox(bad)
    assert isinstance(verdict, Dead)
    assert verdict.reason.startswith(reason)
    assert "order 17" not in verdict.reason


def test_a_dead_letter_has_all_that_was_read_and_tells_of_each_death() -> None:
    sent_back = replace(GOOD, headers=(("trace", b"7"), ("courant.reason", b"earlier")))
    letter = Dead(sent_back, "later").letter()
    assert (letter.topic, letter.key, letter.value) == ("inbox.dead", GOOD.key, GOOD.value)
    assert letter.headers == (
        *sent_back.headers,
        ("courant.reason", b"later"),
        ("courant.origin", b"inbox.email.normal/0/0"),
        ("courant.attempt", b"2"),
        ("courant.time", b"2030-01-01T12:00:00+00:00"),
    )


def test_a_receipt_that_an_earlier_version_wrote_counts_from_its_records_time() -> None:
    receipts = partition("receipts")
    value = f'{{"id":"{id_of(1)}","attempt":2,"says":"delivered","kind":"receipt"}}'.encode()
    verdict = rules.read_receipt(replace(GOOD, partition=receipts, value=value))
    assert isinstance(verdict, Keep)
    assert isinstance(verdict.value, Receipt)
    assert verdict.value.happened_at == GOOD.timestamp


def test_a_post_that_nothing_can_use_is_dead_with_its_reason() -> None:
    post = UnreadPost(sns_id="m-1", reason="inbound SMS are not supported yet", sealed=b"x")
    verdict = rules.read_receipt(replace(GOOD, value=post.encode()))
    assert isinstance(verdict, Dead)
    assert verdict.reason == "inbound SMS are not supported yet"


@pytest.mark.parametrize("message_id", ["", "a\0b", "a b", "é", "a\n", "x" * 251])
def test_an_id_that_the_database_cannot_look_up_is_dead(message_id: str) -> None:
    verdict = rules.read_receipt(record(untagged(message_id, "delivered", "m-1")))
    assert isinstance(verdict, Dead)
    assert "message_id" in verdict.reason


@given(st.binary(), st.binary())
def test_no_bytes_make_a_rule_raise(key: bytes, value: bytes) -> None:
    unreadable = replace(GOOD, key=key, value=value)
    assert isinstance(rules.read_inbox(unreadable), Dead)
    assert isinstance(rules.read_delivery(unreadable), Dead)
    assert isinstance(rules.read_receipt(unreadable), Dead)


@given(st.uuids(), st.datetimes(timezones=st.just(NOW.tzinfo)))
def test_no_id_and_no_time_make_a_rule_raise(id: UUID, time: datetime) -> None:
    strange = msgspec.structs.replace(notification(1), id=id)
    rules.read_inbox(replace(record(strange), timestamp=time))


@pytest.mark.parametrize(
    ("outcome", "move"),
    [("accepted", "sent"), ("deferred", "deferred"), ("unknown", "unknown")],
)
def test_an_outcome_asks_for_its_move(outcome: str, move: str) -> None:
    [report] = rules.reports(outcomes(1, {1: (2, outcome)}))
    assert (report.attempt, report.move) == (2, move)


def test_nobody_decides_through_recovery_what_only_a_provider_can_say() -> None:
    assert isinstance(rules.read_delivery(record(decided(1, Move.FREED))), Keep)
    assert isinstance(rules.read_delivery(record(decided(1, Move.DELIVERED))), Dead)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("accepted", "scheduled", "ordered"),
    [
        (HOUR, None, True),
        (-HOUR, None, True),  # by the clock of an ingest that is ahead
        (71 * HOUR, None, True),
        (73 * HOUR, None, False),
        (2 * HOUR, -HOUR, False),  # its time has not come
        (2 * HOUR, HOUR, True),  # saved after its time
        (80 * HOUR, 71 * HOUR, True),
        (90 * HOUR, 73 * HOUR, False),
    ],
)
def test_what_may_be_sent_now_is_ordered(
    accepted: timedelta, scheduled: timedelta | None, ordered: bool
) -> None:
    waiting = msgspec.structs.replace(
        notification(1),
        accepted_at=NOW - accepted,
        scheduled_for=None if scheduled is None else NOW - scheduled,
    )
    assert rules.orders([waiting], NOW) == ([rules.order(waiting)] if ordered else [])
