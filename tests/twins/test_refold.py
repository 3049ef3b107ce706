"""After `courant restore` only rows that were gone move again, on the fake store and PostgreSQL."""

from typing import Any

import pytest
from sqlalchemy import Engine

from courant.contracts import Contract
from courant.errors import Behind
from courant.postgres import refolds
from courant.testing import builders
from courant.testing.builders import DELIVERY, INBOX, RECEIPTS, notification, outcomes, receipt
from courant.testing.builders import started as begun
from courant.topics import Partition
from saver import handle, rules, store
from support.mistakes import replace
from support.saver import FakeTwin, PostgresTwin, Twin, save, settle

INBOX_0, DELIVERY_0, RECEIPTS_0 = map(builders.partition, (INBOX, DELIVERY, RECEIPTS))
SAVED = [notification(1), notification(2), notification(3)]
CALLS: list[Contract] = [
    begun(1, {1: 1, 2: 1}),
    outcomes(1, {1: (1, "accepted"), 2: (1, "deferred")}),
    begun(2, {2: 2}),
    outcomes(2, {2: (2, "unknown")}),
]
REPORTS: list[Contract] = [
    receipt(1, "delivered", second=1),
    receipt(1, "delayed", second=2),
    receipt(1, "delivered", second=3),
    receipt(1, "complained", second=4),
    receipt(2, "delivered", 2, second=1),
]
STORY = [(1, "delivered", 1, None), (2, "delivered", 2, None), (3, "created", 0, None)]


@pytest.fixture(params=["fake", "postgres"])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "fake":
        return FakeTwin()
    return PostgresTwin(request.getfixturevalue("engine"))


def play(twin: Twin) -> None:
    """Fold everything that is in the log."""
    save(twin, *SAVED)
    twin.mark(3)
    settle(twin, *CALLS)
    settle(twin, *REPORTS)


def events(twin: Twin) -> list[Any]:
    seen: Any = twin.rest()
    return sorted((builders.number_of(id), str(move), *rest) for id, move, *rest in seen[0])


def open_calls(twin: Twin) -> list[int]:
    seen: Any = twin.rest()
    return sorted({id.int for id, *_ in seen[1]})


def back(twin: Twin, **starts: int) -> dict[Partition, int]:
    names = {"inbox": INBOX_0, "delivery": DELIVERY_0, "receipts": RECEIPTS_0}
    positions = {names[name]: start for name, start in starts.items()}
    twin.set_back(positions)
    return positions


def test_rows_that_stayed_make_no_move_and_have_no_event_again(twin: Twin) -> None:
    play(twin)
    assert twin.rows() == STORY
    before = events(twin)
    back(twin, inbox=0, delivery=0, receipts=0)
    play(twin)
    assert twin.rows() == STORY
    assert events(twin) == before


def test_a_row_that_came_back_makes_its_moves_and_the_others_stay(twin: Twin) -> None:
    play(twin)
    before = events(twin)
    twin.delete(1)
    twin.delete(3)
    back(twin, inbox=0, delivery=0, receipts=0)
    play(twin)
    assert twin.rows() == STORY
    # Its events of before stayed; those of row 2 came once.
    again = events(twin)
    assert [each for each in again if each[0] == 2] == [each for each in before if each[0] == 2]
    assert len([each for each in again if each[:2] == (1, "delivered")]) == 4


def test_the_services_that_fold_find_postgres_behind_and_a_hold(twin: Twin) -> None:
    play(twin)
    back(twin, inbox=1, delivery=0, receipts=0)
    seen: Any = twin.rest()
    assert seen[3]
    assert seen[4] == 0  # no mark is left
    with pytest.raises(Behind) as raised:
        twin.store.compare({INBOX_0: 3, DELIVERY_0: 4})
    assert raised.value.positions == {INBOX_0: 1, DELIVERY_0: 0}


def test_positions_are_never_set_forward(twin: Twin) -> None:
    play(twin)
    back(twin, inbox=7, delivery=4, receipts=5)
    twin.store.compare({INBOX_0: 3, DELIVERY_0: 4, RECEIPTS_0: 5})
    with pytest.raises(Behind):
        twin.store.compare({INBOX_0: 4})


def test_records_after_the_old_position_move_every_row(twin: Twin) -> None:
    play(twin)
    back(twin, delivery=0, receipts=4)
    settle(twin, *CALLS, begun(3, {3: 1}), outcomes(3, {3: (1, "accepted")}))
    new = [receipt(3, "delivered"), receipt(1, "bounced"), receipt(2, "bounced", 2)]
    settle(twin, *REPORTS[4:], *new, offset=4)
    assert twin.rows() == [
        (1, "permanent-failure", 1, None),
        (2, "permanent-failure", 2, None),
        (3, "delivered", 1, None),
    ]


def test_a_second_restore_during_the_first_still_moves_the_rows_of_the_first(twin: Twin) -> None:
    play(twin)
    twin.delete(1)
    twin.delete(2)
    back(twin, inbox=0, delivery=0, receipts=0)
    save(twin, *SAVED)
    twin.mark(3)
    settle(twin, *CALLS[:1])
    back(twin, inbox=0, delivery=0, receipts=0)
    save(twin, *SAVED)
    twin.mark(3)
    settle(twin, *CALLS)
    assert [row[:3] for row in twin.rows()] == [
        (1, "sending", 1),
        (2, "claimed", 2),
        (3, "created", 0),
    ]
    settle(twin, *REPORTS)
    assert twin.rows() == STORY


def test_a_second_restore_after_the_first_changes_nothing(twin: Twin) -> None:
    play(twin)
    twin.delete(1)
    back(twin, inbox=0, delivery=0, receipts=0)
    play(twin)
    before = events(twin)
    back(twin, inbox=0, delivery=0, receipts=0)
    play(twin)
    assert twin.rows() == STORY
    assert events(twin) == before


def test_a_lost_call_is_open_again(engine: Engine) -> None:
    twin = PostgresTwin(engine)
    play(twin)
    twin.ask("DELETE FROM calls")
    back(twin, delivery=0)
    settle(twin, *CALLS)
    assert open_calls(twin) == [2]  # its outcome is unknown


# For each mistake: the owner, the name in it, the right words, the wrong words.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    "rows that stayed move again": (rules, "in_rounds", "if report.id in without", "if False"),
    "rows that came back do not move": (refolds, "CAME_BACK", "number > %s", "number > %s + 9999"),
    "new records count as folded before": (handle, "apart", "(new, set())", "(new, stayed)"),
    "the first restore is forgotten": (
        refolds,
        "NOTE",
        "WHEN excluded.below < r.below",
        "WHEN false",
    ),
    "positions set forward": (refolds, "set_back", "if next_ <= start:", "if next_ == start:"),
    "no hold": (refolds, "set_back", "connection.exec_driver_sql(HOLD, (reason,))", "pass"),
    "calls not opened again": (store, "OPEN", "%s::int[])", "%s::int[]) LIMIT 0"),
}
CASES = [
    test_rows_that_stayed_make_no_move_and_have_no_event_again,
    test_a_row_that_came_back_makes_its_moves_and_the_others_stay,
    test_the_services_that_fold_find_postgres_behind_and_a_hold,
    test_positions_are_never_set_forward,
    test_records_after_the_old_position_move_every_row,
    test_a_second_restore_during_the_first_still_moves_the_rows_of_the_first,
    test_a_second_restore_after_the_first_changes_nothing,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_detected(
    mistake: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *MISTAKES[mistake])

    def fails(act: Any, given: Any) -> bool:
        try:
            act(given)
        except (AssertionError, pytest.fail.Exception):
            return True
        return False

    found = [fails(case, PostgresTwin(engine)) for case in CASES]
    assert any([*found, fails(test_a_lost_call_is_open_again, engine)])
