"""The deliverer's rate limiter, circuit breaker and settings."""

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


def acquired(
    limiter: RateLimiter, clock: Clock, seconds: float, *lanes: Lane, size: int = 1
) -> dict[Lane, int]:
    """Count what each lane acquires; each tries every millisecond, the least urgent lane first."""
    counts = dict.fromkeys(lanes, 0)
    for _ in range(int(seconds * 1000)):
        clock.now += 0.001
        for lane in sorted(lanes, key=list(Lane).index, reverse=True):
            counts[lane] += 0 if limiter.try_acquire(lane, size) else size
    return counts


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("size", [1, 50])
def test_a_lane_alone_has_the_whole_rate_and_no_more(clock: Clock, lane: Lane, size: int) -> None:
    limiter = RateLimiter(100, clock)
    counts = acquired(limiter, clock, 60, lane, size=size)[lane]
    assert 0.97 * 6000 <= counts <= 6000 + 50 + size


def test_priority_comes_first_and_the_others_keep_their_floor(clock: Clock) -> None:
    limiter = RateLimiter(100, clock)
    counts = acquired(limiter, clock, 60, *Lane)
    assert counts[Lane.PRIORITY] >= 0.75 * 6000
    assert 0.09 * 6000 <= counts[Lane.NORMAL] <= 0.15 * 6000
    assert 0.09 * 6000 <= counts[Lane.BULK] <= 0.15 * 6000
    assert sum(counts.values()) <= 6100


def test_a_lane_that_must_wait_gets_the_seconds_to_wait(clock: Clock) -> None:
    limiter = RateLimiter(10, clock)
    assert limiter.try_acquire(Lane.PRIORITY, 50) == 0
    wait = limiter.try_acquire(Lane.PRIORITY, 1)
    assert wait == pytest.approx(4.5)
    clock.now += wait + 0.01
    assert limiter.try_acquire(Lane.PRIORITY, 1) == 0


def test_a_throttle_pauses_all_lanes_and_the_next_one_for_longer(clock: Clock) -> None:
    limiter = RateLimiter(1e6, clock)
    limiter.record_throttle()
    first = limiter.try_acquire(Lane.PRIORITY, 1)
    assert 0 < first <= 0.2
    limiter.record_throttle()  # of a call in flight beside the first one: the same throttle
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


def test_the_pause_after_throttles_is_bounded(clock: Clock) -> None:
    limiter = RateLimiter(1e6, clock)
    for _ in range(20):
        clock.now += 60
        limiter.record_throttle()
    assert limiter.try_acquire(Lane.PRIORITY, 1) == pytest.approx(5)


def admitted_as_probe(breaker: Breaker) -> bool:
    with breaker.admit() as probe:
        return probe


def test_a_closed_breaker_admits_callers_that_are_no_probe(clock: Clock) -> None:
    assert admitted_as_probe(Breaker("fake", clock)) is False


def test_an_open_breaker_refuses_callers_then_admits_one_probe(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    breaker.open("suspended")
    with pytest.raises(Unavailable, match="suspended"):
        admitted_as_probe(breaker)
    clock.now += 2
    with breaker.admit() as probe:
        assert probe
        with pytest.raises(Unavailable):
            admitted_as_probe(breaker)
    # The first probe made no call, so another one is admitted.
    with breaker.admit() as probe:
        assert probe
        breaker.record_success()
    assert admitted_as_probe(breaker) is False


def test_a_failed_probe_makes_the_pause_longer_up_to_a_bound(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    breaker.open("suspended")
    for _ in range(10):
        clock.now += 60
        with breaker.admit() as probe:
            assert probe
            breaker.record_failure("late")
        assert breaker.is_open
    assert breaker.pause.total_seconds() == 10


def test_only_consecutive_unknown_outcomes_open_the_breaker(clock: Clock) -> None:
    breaker = Breaker("fake", clock)
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breaker.record_failure("late")
        breaker.record_success()
    assert not breaker.is_open
    for _ in range(FAILURES_MAX):
        breaker.record_failure("late")
    assert breaker.is_open


REQUIRED: dict[str, Any] = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://courant@127.0.0.1/courant",
    "courant_seal_keys": "a:" + "A" * 43 + "=",
}


@pytest.mark.parametrize(
    ("lease", "connect", "read", "fits"),
    [(30, 2, 8, True), (30, 2, 26.9, True), (30, 2, 27, False), (6, 2, 8, False),
     (6, 5, 0.1, False), (6, 0.5, 3.5, True), (6, 2, None, True), (2.5, 2, None, False)],
)  # fmt: skip
def test_timeouts_longer_than_the_lease_are_rejected_by_name(
    lease: float, connect: float, read: float | None, fits: bool
) -> None:
    values: dict[str, Any] = {
        "courant_lease_seconds": lease,
        "deliverer_connect_timeout_seconds": connect,
        "deliverer_read_timeout_seconds": read,
    }
    if fits:
        settings = DelivererSettings(**REQUIRED, **values)
        assert settings.read_seconds + connect + 1 <= lease
        return
    with pytest.raises(ValidationError) as raised:
        DelivererSettings(**REQUIRED, **values)
    message = "\n".join(complaints(DelivererSettings, raised.value))
    assert "TIMEOUT_SECONDS" in message
    assert "COURANT_LEASE_SECONDS" in message


def test_the_lease_determines_the_default_read_timeout() -> None:
    assert DelivererSettings(**REQUIRED).read_seconds == 8
    assert 2 < DelivererSettings(**REQUIRED, courant_lease_seconds=6).read_seconds < 3
