"""The deliverer's rate, breaker and settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from courant.errors import Unavailable
from courant.settings import complaints
from courant.topics import Lane
from deliverer.breaker import FAILURES_MAX, Breaker
from deliverer.rate import RateLimiter
from deliverer.settings import DelivererSettings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(
    limiter: RateLimiter, clock: Clock, seconds: float, *lanes: Lane, size: int = 1
) -> dict[Lane, int]:
    """Ask for each lane a thousand times a second, the least urgent first."""
    got = dict.fromkeys(lanes, 0)
    for _ in range(int(seconds * 1000)):
        clock.now += 0.001
        for lane in sorted(lanes, key=list(Lane).index, reverse=True):
            got[lane] += 0 if limiter.try_acquire(lane, size) else size
    return got


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("size", [1, 50])
def test_a_lane_alone_has_the_whole_rate_and_no_more(clock: Clock, lane: Lane, size: int) -> None:
    limiter = RateLimiter(100, clock)
    got = taken(limiter, clock, 60, lane, size=size)[lane]
    assert 0.97 * 6000 <= got <= 6000 + 50 + size


def test_priority_comes_first_and_the_others_keep_their_floor(clock: Clock) -> None:
    limiter = RateLimiter(100, clock)
    got = taken(limiter, clock, 60, *Lane)
    assert got[Lane.PRIORITY] >= 0.75 * 6000
    assert 0.09 * 6000 <= got[Lane.NORMAL] <= 0.15 * 6000
    assert 0.09 * 6000 <= got[Lane.BULK] <= 0.15 * 6000
    assert sum(got.values()) <= 6100


def test_one_that_must_wait_is_told_how_long(clock: Clock) -> None:
    limiter = RateLimiter(10, clock)
    assert limiter.try_acquire(Lane.PRIORITY, 50) == 0
    wait = limiter.try_acquire(Lane.PRIORITY, 1)
    assert wait == pytest.approx(4.5)
    clock.now += wait + 0.01
    assert limiter.try_acquire(Lane.PRIORITY, 1) == 0


def test_a_throttle_stops_all_lanes_a_moment_and_longer_each_time(clock: Clock) -> None:
    limiter = RateLimiter(1e6, clock)
    limiter.record_throttle()
    first = limiter.try_acquire(Lane.PRIORITY, 1)
    assert 0 < first <= 0.2
    limiter.record_throttle()  # of a call that flew beside the first one: the same warning
    assert limiter.try_acquire(Lane.BULK, 1) == first
    clock.now += 1
    assert limiter.try_acquire(Lane.PRIORITY, 1) == 0
    limiter.record_throttle()
    assert limiter.try_acquire(Lane.PRIORITY, 1) == pytest.approx(2 * first)
    for _ in range(20):
        clock.now += 10
        limiter.record_success()
    limiter.record_throttle()
    assert limiter.try_acquire(Lane.PRIORITY, 1) == pytest.approx(first)


def test_a_pause_is_bounded(clock: Clock) -> None:
    limiter = RateLimiter(1e6, clock)
    for _ in range(20):
        clock.now += 60
        limiter.record_throttle()
    assert limiter.try_acquire(Lane.PRIORITY, 1) == pytest.approx(5)


def entered(breaker: Breaker) -> bool:
    with breaker.admit() as probe:
        return probe


def test_a_breaker_lets_pass_while_nothing_is_wrong(clock: Clock) -> None:
    assert entered(Breaker("fake", clock)) is False


def test_an_open_breaker_refuses_then_lets_one_probe_pass(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    breaker.open("suspended")
    with pytest.raises(Unavailable, match="suspended"):
        entered(breaker)
    clock.now += 2
    with breaker.admit() as probe:
        assert probe
        with pytest.raises(Unavailable):
            entered(breaker)
    # It made no call, so that another one may.
    with breaker.admit() as probe:
        assert probe
        breaker.record_success()
    assert entered(breaker) is False


def test_a_probe_that_fails_makes_the_pause_longer_up_to_a_bound(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    breaker.open("suspended")
    for _ in range(10):
        clock.now += 60
        with breaker.admit() as probe:
            assert probe
            breaker.record_failure("late")
        assert breaker.is_open
    assert breaker.pause.total_seconds() == 30


def test_unknown_outcomes_open_it_only_in_a_row(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breaker.record_failure("late")
        breaker.record_success()
    assert not breaker.is_open
    for _ in range(FAILURES_MAX):
        breaker.record_failure("late")
    assert breaker.is_open


GIVEN: dict[str, Any] = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://courant@127.0.0.1/courant",
    "courant_seal_keys": "a:" + "A" * 43 + "=",
}


@pytest.mark.parametrize(
    ("lease", "connect", "read", "fits"),
    [(30, 2, 8, True), (30, 2, 26.9, True), (30, 2, 27, False), (6, 2, 8, False),
     (6, 5, 0.1, False), (6, 0.5, 3.5, True), (6, 2, None, True), (2.5, 2, None, False)],
)  # fmt: skip
def test_timeouts_that_outlast_the_lease_are_refused_by_name(
    lease: float, connect: float, read: float | None, fits: bool
) -> None:
    values: dict[str, Any] = {
        "courant_lease_seconds": lease,
        "deliverer_connect_timeout_seconds": connect,
        "deliverer_read_timeout_seconds": read,
    }
    if fits:
        settings = DelivererSettings(**GIVEN, **values)
        assert settings.read_seconds + connect + 1 <= lease
        return
    with pytest.raises(ValidationError) as raised:
        DelivererSettings(**GIVEN, **values)
    told = "\n".join(complaints(DelivererSettings, raised.value))
    assert "TIMEOUT_SECONDS" in told
    assert "COURANT_LEASE_SECONDS" in told


def test_without_a_read_timeout_the_lease_gives_one() -> None:
    assert DelivererSettings(**GIVEN).read_seconds == 8
    assert 2 < DelivererSettings(**GIVEN, courant_lease_seconds=6).read_seconds < 3
