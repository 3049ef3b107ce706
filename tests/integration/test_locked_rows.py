"""A row that a forgotten session keeps locked: the others go on, its reports keep their order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine

from courant.lifecycle import State
from courant.testing import builders
from courant.testing.builders import (
    DELIVERY,
    id_of,
    notification,
    outcomes,
    receipt,
    started,
)
from courant.topics import family
from recovery.store import FOLDED
from saver import aside, blame, handle
from support.mistakes import replace
from support.saver import PostgresTwin, save, settle
from support.waiting import BUSY_SECONDS


@pytest.fixture
def twin(engine: Engine) -> PostgresTwin:
    twin = PostgresTwin(engine)
    twin.ask("DELETE FROM aside")
    return twin


@contextmanager
def locked(twin: PostgresTwin, number: int) -> Iterator[None]:
    """Lock a row, as somebody does who forgets a session."""
    with twin.engine.connect() as connection:
        sql = f"SELECT FROM notifications WHERE id = '{id_of(number)}' FOR UPDATE"
        connection.exec_driver_sql(sql)
        yield


def passed(twin: PostgresTwin, topic: str) -> bool:
    """Return whether recovery holds a mark at the end of this topic for passed."""
    _, topic_id, _ = builders.partition(topic)
    [(end,)] = twin.ask("SELECT next FROM positions WHERE topic_id = :id", id=topic_id)
    twin.ask("DELETE FROM marks")
    twin.ask(
        "INSERT INTO marks VALUES (clock_timestamp(), :id, :family, :topic, :ends)",
        id=topic_id, family=family(topic), topic=topic, ends=[end],
    )  # fmt: skip
    with twin.engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(FOLDED, {"topics": [topic]})
        return bool(cursor.fetchall())


def states(twin: PostgresTwin) -> list[tuple[Any, ...]]:
    return [row[:3] for row in twin.rows()]


def calls(twin: PostgresTwin) -> int:
    return len(twin.ask("SELECT DISTINCT id FROM calls"))


def story(twin: PostgresTwin) -> None:
    """Fold two calls, one with a locked row in it, and more reports on that row afterwards."""
    for number in (1, 2, 3):
        twin.put(number, State.CLAIMED, 1)
    with locked(twin, 1):
        began = time.monotonic()
        settle(twin, started(1, {1: 1, 2: 1}), started(2, {3: 1}))
        assert calls(twin) == 2  # what is under way is known though the row is locked
        settle(twin, outcomes(1, {1: (1, "accepted"), 2: (1, "accepted")}), offset=2)
        settle(twin, receipt(1, "delivered"), receipt(2, "delivered"), receipt(1, "delayed"))
        settle(twin, outcomes(2, {3: (1, "deferred")}), offset=3)
        assert time.monotonic() - began < 4 + BUSY_SECONDS
        assert states(twin) == [(1, "claimed", 1), (2, "delivered", 1), (3, "created", 1)]
        assert len(twin.ask("SELECT FROM aside")) == 4
        assert not passed(twin, DELIVERY)
        twin.ask("UPDATE aside SET at = at - interval '10 s'")
        [blocker] = twin.store.fold_aside() or []
        assert blocker.pid
        assert states(twin)[0] == (1, "claimed", 1)


def test_its_reports_are_folded_in_order_once_it_is_free(twin: PostgresTwin) -> None:
    story(twin)
    assert twin.store.fold_aside() is None
    assert states(twin)[0] == (1, "temporary-failure", 1)
    moves = "SELECT move FROM events WHERE id = :id AND made ORDER BY number"
    assert [move for (move,) in twin.ask(moves, id=id_of(1))] == [
        "saved", "sent", "delivered", "delayed",
    ]  # fmt: skip
    assert twin.ask("SELECT FROM aside") == []
    assert passed(twin, DELIVERY)


def test_a_later_report_folds_what_was_set_aside_first(twin: PostgresTwin) -> None:
    story(twin)
    settle(twin, receipt(1, "delivered", second=1), offset=3)
    assert states(twin)[0] == (1, "delivered", 1)
    assert twin.ask("SELECT FROM aside") == []


def test_a_report_with_a_bad_text_that_was_set_aside_is_folded_without_it(
    twin: PostgresTwin,
) -> None:
    twin.put(1, State.CLAIMED, 1)
    with locked(twin, 1):
        bad = blame.plain(outcomes(1, {1: (1, "accepted")}), "a\0b")
        settle(twin, bad)
    twin.store.fold_aside()
    assert states(twin) == [(1, "sending", 1)]


def test_what_was_set_aside_for_a_row_that_is_gone_holds_back_nothing(twin: PostgresTwin) -> None:
    story(twin)
    twin.ask("DELETE FROM notifications WHERE id = :id", id=id_of(1))
    assert twin.store.fold_aside() is None
    assert passed(twin, DELIVERY)


def test_a_row_of_each_state_may_be_locked(twin: PostgresTwin) -> None:
    for number, state in enumerate(State, start=1):
        twin.put(number, state, 1)
        with locked(twin, number):
            save(twin, notification(number), offset=0)
            settle(twin, receipt(number, "delivered"), offset=number - 1)
        twin.store.fold_aside()
    assert twin.ask("SELECT FROM aside") == []


@pytest.mark.parametrize(
    ("owner", "name", "right", "wrong"),
    [
        (handle, "settle", "fold.put_aside(rules.reports_on(records, locked))", "pass"),
        (aside, "ASIDE", "ORDER BY number", "ORDER BY number DESC"),
    ],
)
def test_mistakes_are_noticed(
    twin: PostgresTwin,
    owner: Any,
    name: str,
    right: str,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace(monkeypatch, owner, name, right, wrong)
    with pytest.raises((AssertionError, ValueError)):
        test_its_reports_are_folded_in_order_once_it_is_free(twin)
