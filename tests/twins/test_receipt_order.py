"""Receipts come in any order and more than once; each row ends where the latest of them puts it.

The same tests run on the fake store and on PostgreSQL.
"""

from collections import Counter
from datetime import timedelta
from itertools import permutations, product
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

import courant.testing.store
from courant import lifecycle
from courant.lifecycle import RANKS, Move, Report, State
from courant.testing import builders
from courant.testing.builders import NOW, id_of, notification, outcomes, receipt
from courant.testing.store import FakeFold
from saver import store
from support.mistakes import replace
from support.saver import FakeTwin, PostgresTwin, Twin, save, settle


@pytest.fixture(params=["fake", "postgres"])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "fake":
        return FakeTwin()
    return PostgresTwin(request.getfixturevalue("engine"))


class Told(NamedTuple):
    """What a provider tells of a message: something happened at a second."""

    says: str
    second: int
    weak: bool = False


# In the words of the contract, not by the product's rule: of several receipts the latest counts,
# and the graver one of the same second; a permanent failure is final; a weak one counts only alone.
AFTER = {
    "delivered": "delivered",
    "delayed": "temporary-failure",
    "opted-out": "technical-failure",
    "bounced": "permanent-failure",
}
GRAVITY = list(AFTER)


def end_of(told: list[Told]) -> str:
    state = "sending"
    strong = [each for each in told if not each.weak and each.says in AFTER]
    counted = strong or [each for each in told if each.says in AFTER]
    if any(each.says == "bounced" for each in strong):
        return "permanent-failure"
    for each in sorted(counted, key=lambda each: (each.second, GRAVITY.index(each.says))):
        state = AFTER[each.says]
    return state


TOLD = st.one_of(
    st.builds(
        Told, st.sampled_from(["sent", *AFTER, "complained"]), st.integers(0, 3), st.just(False)
    ),
    st.builds(Told, st.just("delayed"), st.sampled_from([-1, 4]), st.just(True)),
)
"""Only a soft bounce can be weak. No other one happens in its second: they would be one event."""


class Story(NamedTuple):
    """What happened to a message, in the order in which it is heard, some of it repeatedly."""

    heard: list[Told]
    accepted_after: int  # how many receipts come before the call's own outcome
    cuts: int  # batches


def heard_twice(told: list[Told]) -> st.SearchStrategy[list[Told]]:
    again = st.lists(st.sampled_from(told), max_size=3) if told else st.just([])
    return again.flatmap(lambda more: st.permutations([*told, *more]))


STORIES = st.builds(
    Story,
    st.lists(TOLD, max_size=5).flatmap(heard_twice),
    st.integers(0, 8),
    st.integers(1, 3),
)


def play(twin: Twin, story: Story) -> str:
    """Play the story on a store and return the row's state."""
    save(twin, notification(1))
    twin.put(1, State.CLAIMED, 1)
    offset = 0
    heard: list[Any] = [receipt(1, each.says, 1, each.second, each.weak) for each in story.heard]
    before, after = heard[: story.accepted_after], heard[story.accepted_after :]
    for part in (before, after):
        size = max(1, len(part) // story.cuts)
        for start in range(0, len(part), size):
            settle(twin, *part[start : start + size], offset=offset)
            offset += len(part[start : start + size])
        if part is before:
            settle(twin, outcomes(1, {1: (1, "accepted")}))
    [(_, state, _, _)] = twin.rows()
    return state


def broken(twin: Twin, story: Story) -> bool:
    """Return whether the row ends elsewhere, or the timeline tells of a receipt twice."""
    ended = play(twin, story)
    shown = Counter(
        (str(move), attempt, made)
        for _, move, attempt, made in twin.rest()[0]  # type: ignore[index]
        if move in {*RANKS, "complained"}
    )
    kinds = Counter(each.says for each in {(e.says, e.second): e for e in story.heard}.values())
    told = Counter[str]()
    for (move, _, _), times in shown.items():
        told[move] += times
    return ended != end_of(story.heard) or any(
        told[kind] != kinds[kind] for kind in (*AFTER, "complained")
    )


@settings(max_examples=300)
@given(STORIES)
def test_every_order_of_arrival_ends_in_the_same_state_on_the_fake(story: Story) -> None:
    assert not broken(FakeTwin(), story)


@settings(max_examples=100)
@given(STORIES)
def test_every_order_of_arrival_ends_in_the_same_state(engine: Engine, story: Story) -> None:
    assert not broken(PostgresTwin(engine), story)


def test_a_delivery_before_a_soft_bounce_does_not_undo_it(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    settle(twin, receipt(1, "delayed", second=2), receipt(1, "delivered", second=1))
    assert twin.rows() == [(1, "temporary-failure", 1, None)]
    events, *_ = twin.rest()  # type: ignore[misc]
    assert (id_of(1), "delivered", 1, False) in events


def test_the_same_delivery_again_does_not_undo_the_bounce_after_it(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    story = [receipt(1, "delivered", second=1), receipt(1, "delayed", second=2)]
    settle(twin, *story, story[0])
    settle(twin, *story, *story, offset=3)
    assert twin.rows() == [(1, "temporary-failure", 1, None)]
    events, *_ = twin.rest()  # type: ignore[misc]
    assert [each for each in events if each[1] == "delivered"] == [(id_of(1), "delivered", 1, True)]


def test_a_receipt_without_its_own_time_counts_from_when_it_came(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    settle(twin, receipt(1, "delayed", second=1))
    settle(twin, receipt(1, "delivered"), offset=1)  # written at NOW by an earlier version
    assert twin.rows() == [(1, "temporary-failure", 1, None)]


def test_a_bounce_heard_again_does_not_end_a_message_that_was_sent_again_since(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    settle(twin, receipt(1, "opted-out", second=1))
    settle(twin, builders.decided(1, Move.REDRIVEN, 1))
    assert twin.rows() == [(1, "created", 1, None)]
    settle(twin, receipt(1, "opted-out", second=1), receipt(1, "bounced", second=0), offset=1)
    assert twin.rows() == [(1, "created", 1, None)]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_weak_bounce_after_a_delivery_is_an_event_and_the_state_stays(
    twin: Twin, order: tuple[int, ...]
) -> None:
    told = [receipt(1, "delivered", second=1), receipt(1, "delayed", second=2, weak=True)]
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    settle(twin, *(told[number] for number in order))
    assert twin.rows() == [(1, "delivered", 1, None)]
    events, *_ = twin.rest()  # type: ignore[misc]
    assert (id_of(1), "delayed", 1, order[0] == 1) in events


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_receipts_end_alike_in_every_order(twin: Twin, order: tuple[int, ...]) -> None:
    told = [receipt(1, "delivered", second=s) for s in (1, 3)] + [receipt(1, "delayed", second=2)]
    save(twin, notification(1))
    twin.put(1, State.CLAIMED, 1)
    settle(twin, *(told[number] for number in order))
    assert twin.rows() == [(1, "delivered", 1, None)]


def test_sql_and_python_find_the_same_receipts_outdated(engine: Engine) -> None:
    times = [None, NOW, NOW + timedelta(seconds=1)]
    cases = list(enumerate(product([Move.SENT, *RANKS], State, times, times, [False, True])))
    reports = [
        Report(id_of(number), 1, move, happened_at=at, weak=weak)
        for number, (move, _, _, at, weak) in cases
    ]
    twins: list[Twin] = [FakeTwin(), PostgresTwin(engine)]
    for twin in twins:
        for number, (_, state, receipt_at, _, _) in cases:
            twin.put(number, state, 1, receipt_at)
        with twin.store.fold({}) as fold:
            fold.settle([reports], [], [])
    assert twins[0].rows() == twins[1].rows()


JUDGED = lifecycle.sql_judged_at()
# For each mistake: the store that has it, the owner, the name in it, the right words, the wrong.
MISTAKES: dict[str, tuple[Any, Any, str, str, str]] = {
    "the last to arrive wins": (
        PostgresTwin,
        store,
        "MOVE",
        f"({lifecycle.sql_outdated()}) IS NOT TRUE",
        "true",
    ),
    "the latest time is not kept": (
        PostgresTwin,
        store,
        "MOVE",
        "THEN greatest(n.receipt_at, ",
        "THEN coalesce(n.receipt_at, ",
    ),
    "an older bounce is ignored": (
        PostgresTwin,
        store,
        "MOVE",
        "NOT (r.move = 'bounced'",
        "NOT (false",
    ),
    "no receipt is weak": (
        PostgresTwin,
        store,
        "MOVE",
        f"({JUDGED}, CASE",
        "(r.happened_at, CASE",
    ),
    "repeated receipts are shown": (
        PostgresTwin,
        store,
        "MOVE",
        "e.happened_at = r.happened_at",
        "false",
    ),
    "the last to arrive wins in the fake": (
        FakeTwin,
        FakeFold,
        "_move",
        "and not outdated(",
        "and not (lambda *_: False)(",
    ),
    "equal times are as they come": (
        FakeTwin,
        courant.testing.store,
        "outdated",
        "rank) <= (receipt_at",
        "99) <= (receipt_at",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_stories_detect_the_mistake(
    mistake: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, *words = MISTAKES[mistake]
    replace(monkeypatch, *words)
    find(
        STORIES,
        lambda story: broken(PostgresTwin(engine) if kind is PostgresTwin else FakeTwin(), story),
        settings=settings(max_examples=1000, phases=[Phase.generate], database=None),
        random=Random(1),
    )
