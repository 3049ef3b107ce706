"""How slow clients may be, and how many places one service may have."""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain, repeat
from uuid import UUID

import pytest

from ingest.http.admission import Slots
from ingest.http.answers import BUSY
from ingest.http.asgi import AnsweredEarly
from ingest.http.slow_clients import MinimumSpeed

KIB = 1024
SLOW, OTHER = UUID(int=1), UUID(int=2)


def given_up(turns: Iterable[tuple[float, int]]) -> float | None:
    """Give after how many seconds of waiting patience ends, if it does."""
    patience, waited = MinimumSpeed(), 0.0
    for seconds, size in turns:
        waited += seconds
        if patience.too_slow(seconds, size):
            return waited
    return None


@pytest.mark.parametrize(
    ("turns", "least", "most"),
    [
        (repeat((4.9, 1), 1_000), 30, 35),  # what is sent
        (repeat((29.0, 100 * KIB), 1_000), 58, 58),  # what is taken
        (chain(repeat((0.0, 1_000 * KIB), 5), repeat((4.0, 0), 1_000)), 60, 64),
        (chain(repeat((1.0, 64 * KIB), 600), repeat((1.0, 7 * KIB), 600)), 630, 660),
    ],
)
def test_who_is_too_slow_is_given_up(
    turns: Iterable[tuple[float, int]], least: float, most: float
) -> None:
    waited = given_up(turns)
    assert waited
    assert least <= waited <= most


@pytest.mark.parametrize(
    "turns",
    [
        repeat((1.0, 64 * KIB), 3_600),
        repeat((20.0, 1_280 * KIB), 100),  # the same pace, as sockets take it: much at a time
        repeat((0.001, 1), 1_000),  # held back: hardly ever waited for
        repeat((0.125, KIB), 3_600),  # 8 KiB/s
    ],
)
def test_who_is_slow_and_honest_is_not(turns: Iterable[tuple[float, int]]) -> None:
    assert given_up(turns) is None


@pytest.mark.parametrize(("most", "own"), [(1, 1), (2, 1), (4, 2), (5, 3), (8, 4)])
def test_a_service_has_half_of_the_places_and_leaves_the_others(most: int, own: int) -> None:
    places = Slots(most, BUSY)
    with ExitStack() as held:
        for _ in range(own):
            held.enter_context(places.acquire(SLOW))
        with pytest.raises(AnsweredEarly), places.acquire(SLOW):
            pass
        for _ in range(most - own):
            held.enter_context(places.acquire(OTHER))
        with pytest.raises(AnsweredEarly), places.acquire(UUID(int=3)):
            pass
        assert places.in_use == most
    assert (places.in_use, places.by_service) == (0, {})
