"""Random stories, played on the fake store and on PostgreSQL: both end in the same state."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from courant.contracts import Contract, Heartbeat, Outcome
from courant.errors import Behind, Unavailable
from courant.lifecycle import Move, State
from courant.postgres import database, folding
from courant.records import Span
from courant.testing.builders import (
    NOW,
    decided,
    notification,
    outcomes,
    receipt,
    started,
    untagged,
)
from saver import handle, store
from saver.handle import Store
from support.mistakes import replace
from support.saver import FakeTwin, PostgresTwin, Twin, batch, save

NUMBERS, ATTEMPTS = st.integers(1, 4), st.integers(1, 3)
TEXTS = st.none() | st.sampled_from(["", "\t", "\n", "\\", r"\N", "\0"]) | st.text(max_size=5)
SAID, SECONDS = st.sampled_from(["sent", "delivered", "delayed", "bounced"]), st.integers(0, 2)
DECISIONS = st.sampled_from([move for move in Move if move.by == "recovery"])
CONTRACTS: dict[str, st.SearchStrategy[Contract]] = {
    "inbox": st.builds(notification, NUMBERS, TEXTS),
    "delivery": st.one_of(
        st.builds(started, NUMBERS, st.dictionaries(NUMBERS, ATTEMPTS, min_size=1)),
        st.builds(
            outcomes,
            NUMBERS,
            st.dictionaries(NUMBERS, st.tuples(ATTEMPTS, st.sampled_from(list(Outcome)))),
        ),
        st.builds(decided, NUMBERS, DECISIONS, ATTEMPTS, TEXTS),
    ),
    "receipts": st.one_of(
        st.builds(receipt, NUMBERS, SAID, ATTEMPTS, SECONDS, st.booleans()),
        st.builds(untagged, NUMBERS.map("message-{}".format), SAID, NUMBERS.map(str), SECONDS),
        st.builds(Heartbeat, at=st.just(NOW), trouble=st.sampled_from([None, "a reason"])),
    ),
}


class Act(NamedTuple):
    """One batch of a story.

    `shift` is where the batch begins, from the end of the last one. `undone` means that its
    transaction fails at the end. `mark` is how far past the end of the inbox a mark is set before.
    """

    topic: str
    contracts: list[Contract]
    shift: int
    undone: bool
    mark: int | None


ACTS = st.sampled_from(sorted(CONTRACTS)).flatmap(
    lambda topic: st.builds(
        Act,
        st.just(topic),
        st.lists(CONTRACTS[topic], min_size=1, max_size=5),
        st.sampled_from([0, 0, 0, -2, 1]),
        st.sampled_from([False, False, True]),
        st.sampled_from([None, None, 0, 1]),
    )
)
PLAYS = st.lists(ACTS, min_size=2, max_size=5)


class Undone(Exception):
    """The transaction fails here."""


class Undoing:
    """A store in which every transaction fails at its end."""

    def __init__(self, store: Store) -> None:
        self.compare, self._fold = store.compare, store.fold

    @contextmanager
    def fold(self, span: Span) -> Iterator[handle.Fold]:
        with self._fold(span) as fold:
            yield fold
            raise Undone


def play(twin: Twin, acts: list[Act]) -> list[object]:
    """Play the story on a store and return everything that can be seen of it."""
    seen: list[object] = [save(twin, notification(4))]
    twin.put(4, State.CREATED, 1)
    ends = dict.fromkeys(CONTRACTS, 0) | {"inbox": 1}
    twin.mark(1)
    for topic, contracts, shift, undone, mark in acts:
        if mark is not None:
            twin.mark(ends["inbox"] + mark)
        polled = batch(*contracts, offset=max(0, ends[topic] + shift))
        target = Undoing(twin.store) if undone else twin.store
        try:
            run = handle.save if topic == "inbox" else handle.settle
            seen.append([list(step) for step in run(target, polled)])
            ends[topic] = max(ends[topic], *(offsets.stop for offsets in polled.span.values()))
        except (Behind, Unavailable, Undone) as error:
            seen.append(type(error))
    return [*seen, twin.rows(), twin.rest(), twin.waiting()]


@settings(max_examples=150, derandomize=True)
@given(PLAYS)
def test_both_stores_end_every_story_in_the_same_state(engine: Engine, acts: list[Act]) -> None:
    assert play(FakeTwin(), acts) == play(PostgresTwin(engine), acts)


def differ(engine: Engine, acts: list[Act]) -> bool:
    """Return whether the twins end in different states, or one cannot even begin."""
    try:
        return play(FakeTwin(), acts) != play(PostgresTwin(engine), acts)
    except Unavailable:
        return True


# For each mistake: the owner, the name in it, the right words, the wrong words.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    "null written as empty": (database, "NULL", r"\N", ""),
    "no escapes": (database, "escaped", ".translate(ESCAPES)", ""),
    "position not moved on": (folding, "MOVE_ON", "greatest(p.next, excluded.next)", "p.next"),
    "position moved backwards": (
        folding,
        "MOVE_ON",
        "greatest(p.next, excluded.next)",
        "excluded.next",
    ),
    "new position returned instead of the old": (folding, "MOVE_ON", "old.next", "new.next"),
    "position not required": (folding, "require", "raise Behind(behind)", "return"),
    "missing rows not waited for": (store, "PASSED", "AND NOT EXISTS", "OR NOT EXISTS"),
    "position ignored for marks": (store, "PASSED", "coalesce(p.next, 0)", "0"),
    "marks not emptied": (folding, "HOLD", "DELETE FROM marks", "SELECT"),
    "grace not restarted": (store, "RESTART_GRACE", "DELETE FROM marks", "SELECT FROM marks"),
    "grace restarted by all marks": (store, "RESTART_GRACE", "WHERE family = 'receipts'", ""),
    "tried rows ordered again": (store, "WAITING", "AND attempt = 0", ""),
    "no guard in SQL": (
        store,
        "MOVE",
        "            AND (r.move",
        "            AND (true OR r.move",
    ),
    "attempt not taken over": (store, "MOVE", "greatest(n.attempt, r.attempt)", "n.attempt"),
    "late reports not shown": (
        store,
        "MOVE",
        "WHERE r.id NOT IN",
        "WHERE r.id IN",
    ),
    "moves shown as late ones too": (store, "MOVE", "NOT IN (SELECT id FROM moved)", "IS NOT NULL"),
    "open call opened again": (
        store,
        "OPEN",
        "NOTHING",
        "(id, notification) DO UPDATE SET attempt = excluded.attempt",
    ),
    "calls not closed": (store, "CLOSE", "DELETE FROM calls", "SELECT FROM calls"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_twins_detect_the_mistake(
    mistake: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *MISTAKES[mistake])
    find(
        PLAYS,
        lambda acts: differ(engine, acts),
        settings=settings(max_examples=500, phases=[Phase.generate], database=None),
        random=Random(1),
    )
