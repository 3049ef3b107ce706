"""The deliverer's rules, called with values."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.contracts import AttemptOutcome, KeyType, Outcome, Outcomes, Persisted, Started
from courant.records import Dead, Keep, Record
from courant.testing.builders import NOW, PERSISTED, id_of, partition
from deliverer import rules
from deliverer.calls import (
    Accepted,
    Call,
    CallEntry,
    ClaimedRow,
    Deferred,
    FinalOutcome,
    Rejected,
    RenderedEmail,
    Unknown,
)

ORDER = Record(
    partition(PERSISTED), 0, id_of(1).bytes, Persisted(id=id_of(1)).encode(), (), NOW
)  # fmt: skip
SECOND = timedelta(seconds=1)
MAIL = RenderedEmail("subject", "text", "html", "{}")


def row(number: int = 1, tries: int = 0) -> ClaimedRow:
    return ClaimedRow(
        id_of(number), 7, tries, UUID(int=7), KeyType.NORMAL, UUID(int=9), 1, None, b"", NOW
    )  # fmt: skip


def entry(
    number: int, source: str = "a", reply_to: str | None = None, size: int = 1000
) -> CallEntry:
    return CallEntry(row(number), source, reply_to, "b@example.org", MAIL, size)


def test_a_good_order_is_kept() -> None:
    assert rules.read_order(ORDER) == Keep(ORDER, id_of(1))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(ORDER, value=b"\xff"), "JSON"),
        (replace(ORDER, value=b"{}"), "Object missing required field `id`"),
        (replace(ORDER, key=id_of(2).bytes), "key: is not the id"),
    ],
)
def test_a_bad_order_is_dead_and_carries_its_reason(bad: Record, reason: str) -> None:
    verdict = rules.read_order(bad)
    assert isinstance(verdict, Dead)
    assert verdict.reason.startswith(reason)


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_no_bytes_make_reading_raise(value: bytes, key: bytes) -> None:
    assert isinstance(rules.read_order(replace(ORDER, value=value, key=key)), Keep | Dead)


@pytest.mark.parametrize(
    ("rate", "measured_rate", "at_once", "room", "limit"),
    [
        (1e6, 0, 100, 10, 100),  # no rate is measured yet: one full call for each thread
        (1e6, 1000, 100, 10, 500),  # fast enough for a whole batch
        (1e6, 30, 100, 10, 150),  # what half of the time is enough for at the measured rate
        (1e6, 1, 100, 10, 100),  # a short claim measures no useful rate
        (14, 1000, 800, 10, 70),  # no more than the provider's rate allows
        (0.01, 1000, 800, 10, 1),
    ],
)
def test_a_claim_takes_no_more_than_is_sent_within_the_lease(
    rate: float, measured_rate: float, at_once: int, room: int, limit: int
) -> None:
    assert rules.claim_limit(rate, measured_rate, at_once, room * SECOND, limit=500) == limit


@pytest.mark.parametrize(
    ("rate", "limit", "entries"),
    [(1e6, 50, 50), (1_000, 50, 50), (200, 50, 10), (14, 50, 1), (0.5, 50, 1), (1_000, 1, 1)],
)
def test_a_call_takes_no_more_than_50_ms_of_the_rate(rate: float, limit: int, entries: int) -> None:
    assert rules.entries_max(rate, limit) == entries


def test_a_call_has_one_source_and_one_reply_to() -> None:
    mixed = [entry(1, "a"), entry(2, "b"), entry(3, "a"), entry(4, "a", "c"), entry(5, "a")]
    calls = rules.group_into_calls(mixed, limit=50)
    assert sorted([entry.row.id.int - id_of(0).int for entry in call] for call in calls) == [
        [1, 3, 5], [2], [4],
    ]  # fmt: skip


def test_a_call_is_full_by_count_and_by_bytes() -> None:
    small = map(entry, range(120))
    assert [len(call) for call in rules.group_into_calls(small, 50)] == [50, 50, 20]
    large = [entry(number, size=400_000) for number in range(5)]
    assert [len(call) for call in rules.group_into_calls(large, 50)] == [2, 2, 1]
    huge = [entry(number, size=2_000_000) for number in range(2)]
    assert [len(call) for call in rules.group_into_calls(huge, 50)] == [1, 1]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 500_000)), max_size=60),
    st.integers(1, 50),
)
def test_every_entry_is_in_one_call_within_every_limit(
    drawn: list[tuple[str, int]], limit: int
) -> None:
    entries = [entry(n, source, size=size) for n, (source, size) in enumerate(drawn)]
    calls = rules.group_into_calls(entries, limit)
    assert sorted(e.row.id for call in calls for e in call) == [e.row.id for e in entries]
    for call in calls:
        assert 0 < len(call) <= limit
        assert len({(e.source, e.reply_to) for e in call}) == 1
        assert len(call) == 1 or sum(e.size_bytes for e in call) <= 900_000


@pytest.mark.parametrize(
    ("result", "tries", "outcome", "wait_seconds", "blames"),
    [
        (Accepted("m"), 0, "accepted", 0, False),
        (Accepted("m", Outcome.HANDED_OVER), 0, "handed-over", 0, False),
        (Unknown("late"), 0, "unknown", 0, False),
        (Rejected("no"), 0, "rejected", 0, False),
        (Rejected("no", Outcome.UNSUPPORTED), 0, "unsupported", 0, False),
        (Deferred("later", 5 * SECOND), 4, "deferred", 5, False),
        (Deferred("later", 5 * SECOND), 99, "deferred", 5, False),
        (Deferred("bad", blames=True), 0, "deferred", 10, True),
        (Deferred("bad", blames=True), 3, "deferred", 80, True),
        (Deferred("bad", blames=True), 4, "unsendable", 0, True),
        (
            Deferred("bad", blames=True, tries_max=2, final_outcome=Outcome.REJECTED),
            1,
            "rejected",
            0,
            True,
        ),
    ],
)
def test_a_providers_outcome_becomes_the_outcome_of_the_attempt(
    result: FinalOutcome, tries: int, outcome: str, wait_seconds: int, blames: bool
) -> None:
    answer = rules.attempt_outcome(row(tries=tries), result, jitter=0)
    assert (answer.id, answer.attempt, answer.outcome) == (id_of(1), 7, outcome)
    assert (answer.retry_after, answer.blames) == (wait_seconds * SECOND, blames)


def test_jitter_only_lengthens_the_wait() -> None:
    deferred = Deferred("bad", blames=True)
    assert rules.attempt_outcome(row(), deferred, jitter=1.0).retry_after == 15 * SECOND


def test_no_message_waits_longer_than_ten_minutes_for_its_next_try() -> None:
    assert rules.backoff(1_000_000) == timedelta(minutes=10)


def test_the_records_of_a_call_have_its_id_as_key() -> None:
    call = Call(UUID(int=5), (entry(1), entry(2)))
    announced = rules.started(call)
    assert (announced.topic, announced.key) == ("delivery", UUID(int=5).bytes)
    started = Started.decode(announced.value)
    assert [(each.id, each.attempt) for each in started.attempts] == [(id_of(1), 7), (id_of(2), 7)]
    answer = AttemptOutcome(id=id_of(1), attempt=7, outcome=Outcome.ACCEPTED)
    finished = rules.finished(call.id, [answer])
    assert (finished.topic, finished.key) == ("delivery", UUID(int=5).bytes)
    assert Outcomes.decode(finished.value) == Outcomes(call=UUID(int=5), answers=(answer,))
