"""The minimum speed of clients, and the slots that one service may hold."""

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


def seconds_until_too_slow(turns: Iterable[tuple[float, int]]) -> float | None:
    """Return after how many seconds of waiting the client is too slow, or None."""
    speed, waited = MinimumSpeed(), 0.0
    for seconds, size in turns:
        waited += seconds
        if speed.too_slow(seconds, size):
            return waited
    return None


@pytest.mark.parametrize(
    ("turns", "least", "limit"),
    [
        (repeat((4.9, 1), 1_000), 30, 35),  # a client that sends
        (repeat((29.0, 100 * KIB), 1_000), 58, 58),  # a client that reads
        (chain(repeat((0.0, 1_000 * KIB), 5), repeat((4.0, 0), 1_000)), 60, 64),
        (chain(repeat((1.0, 64 * KIB), 600), repeat((1.0, 7 * KIB), 600)), 630, 660),
    ],
)
def test_a_client_below_the_minimum_speed_is_too_slow(
    turns: Iterable[tuple[float, int]], least: float, limit: float
) -> None:
    waited = seconds_until_too_slow(turns)
    assert waited
    assert least <= waited <= limit


@pytest.mark.parametrize(
    "turns",
    [
        repeat((1.0, 64 * KIB), 3_600),
        repeat((20.0, 1_280 * KIB), 100),  # the same speed in large pieces, as sockets read
        repeat((0.001, 1), 1_000),  # held back by us: hardly any waiting
        repeat((0.125, KIB), 3_600),  # 8 KiB/s
    ],
)
def test_a_client_at_the_minimum_speed_is_never_too_slow(
    turns: Iterable[tuple[float, int]],
) -> None:
    assert seconds_until_too_slow(turns) is None


@pytest.mark.parametrize(("limit", "own"), [(1, 1), (2, 1), (4, 2), (5, 3), (8, 4)])
def test_a_service_gets_half_of_the_slots_and_others_get_the_rest(limit: int, own: int) -> None:
    slots = Slots(limit, BUSY)
    with ExitStack() as held:
        for _ in range(own):
            held.enter_context(slots.acquire(SLOW))
        with pytest.raises(AnsweredEarly), slots.acquire(SLOW):
            pass
        for _ in range(limit - own):
            held.enter_context(slots.acquire(OTHER))
        with pytest.raises(AnsweredEarly), slots.acquire(UUID(int=3)):
            pass
        assert slots.in_use == limit
    assert (slots.in_use, slots.by_service) == (0, {})
