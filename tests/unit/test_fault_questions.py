"""Each check after a fault finds exactly its own kind of fault."""

import pytest

from fault.questions import Booked, check

A = Booked("a", "a@example.com", "1")
B = Booked("b", "b@example.com", "2")
ROWS = {"a": "delivered", "b": "sending"}


def test_nothing_is_wrong_if_every_notification_was_sent_once() -> None:
    assert check({"a", "b"}, ROWS, {}, (), [A, B], {}).wrong() == {}


def test_an_alias_counts_as_its_winner() -> None:
    assert check({"a", "c"}, ROWS, {"c": "a"}, (), [A, B], {}).wrong() == {}


@pytest.mark.parametrize(
    ("rows", "dead", "ledger", "wrong"),
    [
        ({"a": "delivered"}, (), [A, B], {"lost": 1}),
        (ROWS, ("b",), [A, B], {"dead": 1}),
        (ROWS, (), [A], {"unsent": 1}),
        ({**ROWS, "b": "claimed"}, (), [A, B], {"unfinished": 1}),
        ({**ROWS, "b": "created"}, (), [A, B], {"unfinished": 1}),
        (ROWS, (), [A, B, B], {"unexplained": 1}),
        (ROWS, (), [A, Booked("b", *A[1:])], {"twice_to_one": 1}),
    ],
)
def test_each_kind_of_fault_is_found(
    rows: dict[str, str], dead: tuple[str, ...], ledger: list[Booked], wrong: dict[str, int]
) -> None:
    assert check({"a", "b"}, rows, {}, dead, ledger, {}).wrong() == wrong


def test_one_resent_event_explains_one_repeated_booking_and_no_more() -> None:
    assert check({"a", "b"}, ROWS, {}, (), [A, B, B], {"b": 1}).explained == {"b"}
    assert check({"a", "b"}, ROWS, {}, (), [A, B, B, B], {"b": 1}).wrong() == {"unexplained": 1}
