"""Limits: the window that slides, the day, the fiscal year."""

from collections import deque
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from courant.contracts import KeyType
from courant.topics import Channel
from ingest.callers.limits import Limits
from support.ingest.world import service

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


@given(st.lists(st.floats(0, 40), max_size=60), st.integers(0, 6))
def test_a_request_is_refused_when_as_many_came_in_the_minute_before(
    gaps: list[float], limit: int
) -> None:
    limits, now, seen = Limits(), 0.0, deque[float]()
    for gap in gaps:
        now += gap
        before = sum(1 for each in seen if each > now - 60)
        refused = limits.check_rate(service(rate_limit=limit), KeyType.NORMAL, now) is not None
        assert refused == (before >= limit)
        seen.append(now)  # what was refused counts as well


def test_types_of_keys_are_counted_apart_and_a_new_limit_holds_at_once() -> None:
    limits = Limits()
    for _ in range(3):
        assert limits.check_rate(service(rate_limit=3), KeyType.NORMAL, 1) is None
    assert limits.check_rate(service(rate_limit=3), KeyType.TEAM, 1) is None
    assert limits.check_rate(service(rate_limit=4), KeyType.NORMAL, 1) is None
    answer = limits.check_rate(service(rate_limit=4), KeyType.NORMAL, 1)
    assert answer
    assert answer.status == 429


def test_a_day_ends_at_midnight_and_a_year_with_march() -> None:
    limits, given_ = Limits(), service(daily_email=2, annual_email=3)
    for _ in range(2):
        assert limits.check_volume(given_, Channel.EMAIL, NOON) is None
        limits.count_accepted(given_, Channel.EMAIL, NOON)
    told = limits.check_volume(given_, Channel.EMAIL, NOON)
    assert told
    assert b"LiveServiceTooManyEmailRequestsError" in told.body
    evening = NOON - timedelta(days=1)
    assert limits.check_volume(given_, Channel.EMAIL, evening) is None
    limits.count_accepted(given_, Channel.EMAIL, evening)
    told = limits.check_volume(given_, Channel.EMAIL, evening)
    assert told
    assert b"Exceeded annual email sending limit of 3 messages" in told.body
    assert limits.check_volume(given_, Channel.EMAIL, NOON + timedelta(days=1)) is None
    assert limits.check_volume(given_, Channel.SMS, NOON) is None
