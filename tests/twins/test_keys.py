"""Which request an Idempotency-Key stands for, on the fake store and on PostgreSQL.

A: a request. B: its repetition after midnight, with another id. C: a request days later.
"""

from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from courant.contracts import Notification
from courant.lifecycle import Move, State
from courant.postgres import keys
from courant.records import Outgoing
from courant.testing.builders import (
    NOW,
    decided,
    id_of,
    notification,
    number_of,
    outcomes,
    receipt,
    started,
)
from saver import idempotency, store
from support.mistakes import replace
from support.saver import FakeTwin, PostgresTwin, Twin, save, settle

Rows = list[tuple[int, str]]


@pytest.fixture(params=["fake", "postgres"])
def make(request: pytest.FixtureRequest) -> Callable[[], Twin]:
    """Return a function that makes an empty store, as a restored Postgres is."""
    if request.param == "fake":
        return FakeTwin
    engine = request.getfixturevalue("engine")
    return lambda: PostgresTwin(engine)


def keyed(number: int, hours: float = 0.0, body: bytes = b"body") -> Notification:
    return msgspec.structs.replace(
        notification(number),
        accepted_at=NOW + timedelta(hours=hours),
        idempotency_key=b"key",
        body_hash=body,
    )


A, B, C = keyed(1), keyed(2, 0.001), keyed(3, 96)


def rows(twin: Twin) -> Rows:
    return [(number, state) for number, state, *_ in twin.rows()]


def aliases(twin: Twin) -> list[tuple[int, int]]:
    found: Any = twin.rest()
    return [(number_of(id), number_of(winner)) for id, winner in found[-1]]


def events(twin: Twin) -> list[tuple[int, str]]:
    found: Any = twin.rest()
    return [(number_of(id), move) for id, move, *_ in found[0]]


def read(twin: Twin, *given: Notification) -> list[int]:
    """Save each in a batch of its own; return the numbers of the rows that were ordered."""
    ordered = []
    for offset, each in enumerate(given):
        _, orders = save(twin, each, offset=offset)
        ordered += [number_of(each_id(order)) for order in orders]
    return ordered


def each_id(order: Outgoing) -> UUID:
    return UUID(bytes=order.key)


def test_a_repetition_becomes_an_alias_in_any_order(make: Callable[[], Twin]) -> None:
    for order in ([A, B], [B, A]):
        twin = make()
        read(twin, *order)
        assert rows(twin) == [(1, "created")]
        assert aliases(twin) == [(2, 1)]


def test_a_restored_postgres_that_reads_the_repetition_first_sends_nothing_again(
    make: Callable[[], Twin],
) -> None:
    sent = [started(1, {1: 1}), outcomes(1, {1: (1, "accepted")})]
    for order in ([A, B], [B, A]):
        twin = make()
        read(twin, *order)
        twin.mark(0)
        assert settle(twin, *sent) == [[]]
        assert rows(twin) == [(1, "sending")]


@pytest.mark.parametrize("report", ["delivery", "receipts"])
def test_a_report_about_an_alias_is_about_its_winner(make: Callable[[], Twin], report: str) -> None:
    twin = make()
    read(twin, B)
    twin.put(2, State.CLAIMED, 1)
    read(twin, B, A)  # something of B may be sent, so that A cannot have the key any more
    assert rows(twin) == [(2, "claimed")]
    assert aliases(twin) == [(1, 2)]
    twin.mark(0)
    if report == "delivery":
        both = outcomes(1, {1: (1, "accepted"), 2: (1, "accepted")})
        assert settle(twin, started(1, {1: 2}), outcomes(1, {1: (2, "accepted")}), both) == [[]]
        assert rows(twin) == [(2, "sending")]
        assert settle(twin, decided(1, Move.UNANSWERED, 2), offset=3) == [[]]
        assert rows(twin) == [(2, "temporary-failure")]
    else:
        assert settle(twin, receipt(1, "delivered"), receipt(2, "delayed")) == [[]]
        assert rows(twin) == [(2, "temporary-failure")]


def test_an_open_call_of_an_alias_is_the_winners(make: Callable[[], Twin]) -> None:
    twin = make()
    read(twin, A, B)
    twin.mark(0)
    settle(twin, started(5, {2: 1}))
    found: Any = twin.rest()
    assert [number_of(id) for _, id, *_ in found[1]] == [1]
    assert rows(twin) == [(1, "claimed")]


def test_a_key_used_again_after_two_days_is_another_request_in_any_order(
    make: Callable[[], Twin],
) -> None:
    for body in (b"body", b"another"):
        later = msgspec.structs.replace(C, body_hash=body)
        for order in permutations([A, B, later]):
            twin = make()
            read(twin, *order)
            assert rows(twin) == [(1, "created"), (3, "created")]
            assert aliases(twin) == [(2, 1)]
            assert "idempotency-conflict" not in [move for _, move in events(twin)]


def test_another_body_is_refused_in_any_order_and_its_owner_sees_it(
    make: Callable[[], Twin],
) -> None:
    other = msgspec.structs.replace(B, body_hash=b"another")
    for order in ([A, other], [other, A]):
        twin = make()
        read(twin, *order)
        assert rows(twin) == [(1, "created"), (2, "technical-failure")]
        assert aliases(twin) == []
        assert (2, "idempotency-conflict") in events(twin)
        if isinstance(twin, PostgresTwin):
            [[response]] = twin.ask("SELECT response FROM notifications WHERE id = :b", b=id_of(2))
            assert response.startswith("Idempotency-Key has been used with another body")


def test_another_body_that_was_sent_already_stays(make: Callable[[], Twin]) -> None:
    twin = make()
    other = msgspec.structs.replace(B, body_hash=b"another")
    read(twin, other)
    twin.put(2, State.SENDING, 1)
    read(twin, other, A)
    assert rows(twin) == [(1, "technical-failure"), (2, "sending")]
    assert (1, "idempotency-conflict") in events(twin)


def test_a_refused_row_is_not_ordered(make: Callable[[], Twin]) -> None:
    other = msgspec.structs.replace(B, body_hash=b"another")
    assert read(make(), A, other) == [1]
    _, orders = save(make(), A, other, notification(9))
    assert [number_of(each_id(order)) for order in orders] == [1, 9]


def test_repetitions_over_three_days_leave_two_requests_in_any_order(
    make: Callable[[], Twin],
) -> None:
    requests = [keyed(1), keyed(2, 40), keyed(3, 80)]
    for order in permutations(requests):
        twin = make()
        read(twin, *order)
        assert len(rows(twin)) == 2
        assert len(aliases(twin)) == 1


def test_reading_again_changes_nothing_though_the_key_is_forgotten(
    make: Callable[[], Twin],
) -> None:
    other = keyed(4, 1, b"another")
    requests = [A, B, C, other]
    twin = make()
    read(twin, *requests)
    before = rows(twin), aliases(twin), events(twin)
    if isinstance(twin, PostgresTwin):
        twin.ask("DELETE FROM idempotency")
    else:
        assert isinstance(twin, FakeTwin)
        twin.store.tables.jobs.keys.clear()
    for order in permutations(requests):
        read(twin, *order)
        assert (rows(twin), aliases(twin), events(twin)) == before


def test_other_keys_and_services_are_other_requests(make: Callable[[], Twin]) -> None:
    twin = make()
    stranger = msgspec.structs.replace(keyed(2), service_id=id_of(77))
    another = msgspec.structs.replace(keyed(3), idempotency_key=b"another key")
    save(twin, keyed(1), stranger, another, notification(4))
    assert [number for number, _ in rows(twin)] == [1, 2, 3, 4]


def test_repetitions_in_one_batch_are_one_notification(make: Callable[[], Twin]) -> None:
    twin = make()
    _, orders = save(twin, B, notification(9), A, A)
    assert {number_of(each_id(order)) for order in orders} == {1, 9}
    assert rows(twin) == [(1, "created"), (9, "created")]
    assert aliases(twin) == [(2, 1)]


OUTCOMES = ["accepted", "deferred"]
REQUESTS = st.builds(
    keyed,
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 40.0, 47.9, 48.0, 80.0, 100.0]),
    st.sampled_from([b"body", b"body", b"another"]),
)
STEPS = st.one_of(
    st.tuples(st.just("save"), st.lists(REQUESTS, min_size=1, max_size=3)),
    st.tuples(st.just("save"), st.lists(REQUESTS, min_size=1, max_size=3)),
    st.tuples(st.just("put"), st.integers(1, 6), st.sampled_from([State.CLAIMED, State.SENDING])),
    st.tuples(st.just("settle"), st.integers(1, 6), st.integers(1, 2), st.sampled_from(OUTCOMES)),
)
PLAYS = st.lists(STEPS, min_size=2, max_size=7)


def play(twin: Twin, steps: list[tuple[Any, ...]]) -> list[object]:
    """Run the steps; return what each shows. A request has one time and one body for its id."""
    seen: list[object] = []
    first: dict[int, Notification] = {}
    ends = {"inbox": 0, "delivery": 0}
    twin.mark(0)
    for name, *values in steps:
        if name == "save":
            given = [first.setdefault(number_of(each.id), each) for each in values[0]]
            _, orders = save(twin, *given, offset=ends["inbox"])
            ends["inbox"] += len(given)
            seen.append([order.key for order in orders])
        elif name == "put":
            if values[0] in [number for number, *_ in twin.rows()]:
                settle(twin, started(ends["delivery"] + 1, {values[0]: 1}), offset=ends["delivery"])
                ends["delivery"] += 1
        else:
            call = started(ends["delivery"] + 1, {values[0]: values[1]})
            answers = {values[0]: (values[1], values[2])}
            ended = outcomes(ends["delivery"] + 1, answers)
            seen.append([len(step) for step in settle(twin, call, ended, offset=ends["delivery"])])
            ends["delivery"] += 2
        seen += [twin.rows(), twin.rest()]
    return seen


@settings(max_examples=150)
@given(PLAYS)
def test_both_stores_judge_every_story_alike(engine: Engine, steps: list[tuple[Any, ...]]) -> None:
    assert play(FakeTwin(), steps) == play(PostgresTwin(engine), steps)


# For each mistake: the owner, the name in it, the right words, the wrong words.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    "what was sent gives way": (idempotency, "MOVABLE", "AND attempt = 0", ""),
    "what waits does not give way": (idempotency, "MOVABLE", "'created'", "'sent'"),
    "the repetition's row stays": (idempotency, "GIVE_WAY", "courant_give_way", "cardinality"),
    "aliases made again": (idempotency, "DROP_ALIASES", "a.id = i.id", "false"),
    "another body is sent": (
        store,
        "CONFLICT",
        "SET state = 'technical-failure'",
        "SET state = 'created'",
    ),
    "aliases of an alias stay": (keys, "ALIAS", "WHERE winner = %(id)s", "WHERE false"),
    "earlier holders forgotten": (
        keys,
        "STORE",
        "earlier = %s::jsonb",
        "earlier = '[]'::jsonb || (%s::jsonb - 0)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_twins_detect_the_mistake(
    mistake: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *MISTAKES[mistake])
    find(
        PLAYS,
        lambda steps: play(FakeTwin(), steps) != play(PostgresTwin(engine), steps),
        settings=settings(max_examples=500, phases=[Phase.generate], database=None),
        random=Random(1),
    )
