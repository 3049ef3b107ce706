"""Limits of a service: requests in 60 s by key type, notifications by day and by fiscal year.

Each process counts alone, from its start. So with n processes a service may get n times as much,
and a restart forgets the day. Requests that the rate limit rejects count as well.
"""

from collections import deque
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from courant.contracts import KeyType
from courant.directory.entries import Service
from courant.topics import Channel
from ingest.http.answers import Answer, error_answer

WINDOW_SECONDS = 60
FISCAL_MONTH = 4  # fiscal years begin in April
KEY_TYPE_NAMES = {KeyType.NORMAL: "LIVE", KeyType.TEAM: "TEAM", KeyType.TEST: "TEST"}
CALLED = {Channel.EMAIL: "Email", Channel.SMS: "SMS"}


class Remaining(NamedTuple):
    """How many more notifications the fiscal year and the day allow."""

    year: int
    day: int


class Limits:
    """Counts requests and accepted notifications."""

    def __init__(self) -> None:
        self._requests: dict[tuple[UUID, KeyType], deque[float]] = {}
        self._accepted: dict[tuple[UUID, Channel, date | int], int] = {}
        self._day = date.min

    def check_rate(self, service: Service, key_type: KeyType, seconds: float) -> Answer | None:
        """Count a request at a monotonic time. Returns the 429 if the last minute had too many."""
        limit = service.rate_limit
        times = self._requests.get((service.id, key_type))
        if times is None or times.maxlen != limit:
            # The newest `limit` times suffice: if all are within the window, this is one too many.
            times = self._requests[service.id, key_type] = deque(times or (), maxlen=limit)
        while times and times[0] <= seconds - WINDOW_SECONDS:
            times.popleft()
        full = len(times) == limit
        times.append(seconds)
        if not full:
            return None
        return error_answer(
            429,
            "RateLimitError",
            f"Exceeded rate limit for key type {KEY_TYPE_NAMES[key_type]} of {limit} requests per "
            f"{WINDOW_SECONDS} seconds",
        )

    def check_volume(
        self, service: Service, channel: Channel, now: datetime, count: int = 1
    ) -> Answer | None:
        """Return the 429 if `count` more notifications exceed the year's or the day's limit."""
        kind = "TrialService" if service.restricted else "LiveService"
        email = channel is Channel.EMAIL
        annual = service.annual_email if email else service.annual_sms
        left = self.remaining(service, channel, now)
        if count > left.year:
            return error_answer(
                429,
                f"{kind}RequestExceeds{CALLED[channel]}AnnualLimitError",
                f"Exceeded annual {'email' if email else 'SMS'} sending limit of {annual} messages",
            )
        daily = service.daily_email if email else service.daily_sms
        if count > left.day:
            return error_answer(
                429,
                f"{kind}TooMany{CALLED[channel]}RequestsError",
                f"Exceeded {'email' if email else 'SMS'} daily sending limit of {daily} "
                f"{'messages' if email else 'fragments'}",
            )
        return None

    def remaining(self, service: Service, channel: Channel, now: datetime) -> Remaining:
        """Return how many more notifications the service's fiscal year and day allow."""
        email = channel is Channel.EMAIL
        annual = service.annual_email if email else service.annual_sms
        daily = service.daily_email if email else service.daily_sms
        year = annual - self._accepted.get((service.id, channel, fiscal_year(now)), 0)
        day = daily - self._accepted.get((service.id, channel, now.date()), 0)
        return Remaining(max(year, 0), max(day, 0))

    def count_accepted(
        self, service: Service, channel: Channel, now: datetime, count: int = 1
    ) -> None:
        """Count accepted notifications, including scheduled ones."""
        today, year = now.date(), fiscal_year(now)
        if today != self._day:
            kept: set[date | int] = {today, year}
            self._accepted = {k: n for k, n in self._accepted.items() if k[2] in kept}
            self._day = today
        for period in (today, year):
            counter = (service.id, channel, period)
            self._accepted[counter] = self._accepted.get(counter, 0) + count


def fiscal_year(now: datetime) -> int:
    """Return the calendar year in which the fiscal year of `now` began."""
    return now.year if now.month >= FISCAL_MONTH else now.year - 1
