"""Limits: the sliding window, the day, the fiscal year."""

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
def test_a_request_is_rejected_if_the_minute_before_it_was_full(
    gaps: list[float], limit: int
) -> None:
    limits, now, seen = Limits(), 0.0, deque[float]()
    for gap in gaps:
        now += gap
        before = sum(1 for at in seen if at > now - 60)
        rejected = limits.check_rate(service(rate_limit=limit), KeyType.NORMAL, now) is not None
        assert rejected == (before >= limit)
        seen.append(now)  # rejected requests count as well


def test_key_types_are_counted_separately_and_a_new_limit_applies_at_once() -> None:
    limits = Limits()
    for _ in range(3):
        assert limits.check_rate(service(rate_limit=3), KeyType.NORMAL, 1) is None
    assert limits.check_rate(service(rate_limit=3), KeyType.TEAM, 1) is None
    assert limits.check_rate(service(rate_limit=4), KeyType.NORMAL, 1) is None
    answer = limits.check_rate(service(rate_limit=4), KeyType.NORMAL, 1)
    assert answer
    assert answer.status == 429


def test_a_day_ends_at_midnight_and_a_year_with_march() -> None:
    limits, limited = Limits(), service(daily_email=2, annual_email=3)
    for _ in range(2):
        assert limits.check_volume(limited, Channel.EMAIL, NOON) is None
        limits.count_accepted(limited, Channel.EMAIL, NOON)
    answer = limits.check_volume(limited, Channel.EMAIL, NOON)
    assert answer
    assert b"LiveServiceTooManyEmailRequestsError" in answer.body
    evening = NOON - timedelta(days=1)
    assert limits.check_volume(limited, Channel.EMAIL, evening) is None
    limits.count_accepted(limited, Channel.EMAIL, evening)
    answer = limits.check_volume(limited, Channel.EMAIL, evening)
    assert answer
    assert b"Exceeded annual email sending limit of 3 messages" in answer.body
    assert limits.check_volume(limited, Channel.EMAIL, NOON + timedelta(days=1)) is None
    assert limits.check_volume(limited, Channel.SMS, NOON) is None
