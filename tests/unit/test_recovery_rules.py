"""Recovery's rules, called with values."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.contracts import Decided, decode_delivery
from courant.testing.builders import NOW, id_of
from courant.topics import Channel, Lane
from recovery import rules
from recovery.rows import OverdueRow, WaitLimit

SECOND = timedelta(seconds=1)
ROW = OverdueRow(id_of(1), 4, Channel.SMS, Lane.BULK, id_of(9), 3)


def growth(*marks: tuple[int, int]) -> list[tuple[object, int]]:
    return [(NOW + at * SECOND, count) for at, count in marks]


def beats(*spans: range) -> list[tuple[object, int]]:
    """Return a mark for each second, with a heartbeat every five seconds in these spans."""
    heard = [any(at in span for span in spans) and at % 5 == 0 for at in range(100)]
    return growth(*((at, sum(heard[: at + 1])) for at in range(100)))


@pytest.mark.parametrize(
    ("marks", "since"),
    [
        ([], None),
        (growth((0, 7)), 0),
        (growth((0, 7), (5, 8), (10, 9)), 0),
        (growth((0, 7), (15, 7)), 0),
        (growth((0, 7), (16, 7)), None),  # a gap that has not ended
        (growth((0, 7), (16, 7), (17, 8)), 17),
        (growth((0, 7), (40, 9)), 40),  # nothing is known of the time between two marks
        (growth((0, 7), (5, 0), (10, 1)), 0),  # the topic was made again
        (beats(range(100)), 0),
        (beats(range(40), range(50, 100)), 0),
        (beats(range(40), range(70, 100)), 70),
        (beats(range(60)), None),
    ],
)
def test_a_gap_of_more_than_fifteen_seconds_restarts_the_grace(
    marks: list[tuple[object, int]], since: int | None
) -> None:
    expected = None if since is None else NOW + since * SECOND
    assert rules.reachable_since(marks) == expected  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 2)), min_size=1))
def test_no_silence_of_more_than_a_gap_lies_after_the_time_that_is_returned(
    steps: list[tuple[int, int]],
) -> None:
    marks, at, count = [], 0, 0
    for wait, more in steps:
        at, count = at + wait, count + more
        marks.append((NOW + at * SECOND, count))
    since = rules.reachable_since(marks)
    grew = [time for (_, before), (time, after) in itertools.pairwise(marks) if after != before]
    if since is None:
        assert marks[-1][0] - max(grew, default=marks[0][0]) > 15 * SECOND
        return
    known = [since, *(time for time in grew if time > since), marks[-1][0]]
    waits = [b - a for a, b in itertools.pairwise(known)]
    assert all(wait <= 15 * SECOND for wait in waits)


def test_a_call_has_its_grace_once_receipts_were_folded_for_so_long_without_a_gap() -> None:
    grace = 30 * SECOND
    folded = NOW + 100 * SECOND
    assert rules.silent_before(folded, grace, NOW) == NOW + 70 * SECOND
    assert rules.silent_before(folded, grace, NOW + 70 * SECOND) is None
    assert rules.silent_before(folded, grace, None) is None


@pytest.mark.parametrize(("resends", "move"), [(True, "resent"), (False, "abandoned")])
def test_an_unknown_outcome_is_resolved_as_the_template_says(resends: bool, move: str) -> None:
    written = rules.resolve(ROW, resends)
    decided = decode_delivery(written.value)
    assert isinstance(decided, Decided)
    assert (written.topic, written.key) == ("delivery", ROW.id.bytes)
    assert (decided.id, decided.attempt, decided.move) == (ROW.id, 4, move)


def test_an_order_names_the_row_in_its_lane() -> None:
    written = rules.order(ROW)
    assert (written.topic, written.key) == ("persisted.sms.bulk", ROW.id.bytes)


def test_only_templates_with_a_shorter_limit_are_returned() -> None:
    limits = [WaitLimit(id_of(9), version, hours) for version, hours in ((1, 72), (2, 2), (3, 100))]
    assert rules.shorter_limits(limits) == [limits[1]]


def test_the_bands_of_marks_leave_no_age_out() -> None:
    for bands in (rules.THINNED, rules.THINNED_RECEIPTS):
        assert [until for _, until, _ in bands[:-1]] == [age for age, _, _ in bands[1:]]
        assert bands[-1][1] == rules.MARKS_KEPT
