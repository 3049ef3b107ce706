"""How much a service may ask for: in 60 s by key type, by day, by fiscal year.

Counted in this process alone, from its start: with n processes a service may get n times as much,
and a restart forgets the day. What was refused by the rate counts as well.
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
FISCAL_MONTH = 4  # years begin in April
KEYS_CALLED = {KeyType.NORMAL: "LIVE", KeyType.TEAM: "TEAM", KeyType.TEST: "TEST"}
CALLED = {Channel.EMAIL: "Email", Channel.SMS: "SMS"}


class Remaining(NamedTuple):
    """How many notifications there is still room for."""

    year: int
    day: int


class Limits:
    """Counts what was asked for and accepted."""

    def __init__(self) -> None:
        self._asked: dict[tuple[UUID, KeyType], deque[float]] = {}
        self._accepted: dict[tuple[UUID, Channel, date | int], int] = {}
        self._day = date.min

    def check_rate(self, service: Service, key_type: KeyType, seconds: float) -> Answer | None:
        """Count a request, at a monotonic time in seconds; refuse it when there were too many."""
        limit = service.rate_limit
        asked = self._asked.get((service.id, key_type))
        if asked is None or asked.maxlen != limit:
            # The newest `limit` times decide: when the oldest of them is young, it is one too many.
            asked = self._asked[service.id, key_type] = deque(asked or (), maxlen=limit)
        while asked and asked[0] <= seconds - WINDOW_SECONDS:
            asked.popleft()
        full = len(asked) == limit
        asked.append(seconds)
        if not full:
            return None
        return error_answer(
            429,
            "RateLimitError",
            f"Exceeded rate limit for key type {KEYS_CALLED[key_type]} of {limit} requests per "
            f"{WINDOW_SECONDS} seconds",
        )

    def check_volume(
        self, service: Service, channel: Channel, now: datetime, count: int = 1
    ) -> Answer | None:
        """Tell whether so many more fit into the service's year and day."""
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
        """Tell how many more the service's year and day have room for."""
        email = channel is Channel.EMAIL
        annual = service.annual_email if email else service.annual_sms
        daily = service.daily_email if email else service.daily_sms
        year = annual - self._accepted.get((service.id, channel, fiscal_year(now)), 0)
        day = daily - self._accepted.get((service.id, channel, now.date()), 0)
        return Remaining(max(year, 0), max(day, 0))

    def count_accepted(
        self, service: Service, channel: Channel, now: datetime, count: int = 1
    ) -> None:
        """Count accepted ones, scheduled ones too."""
        today, year = now.date(), fiscal_year(now)
        if today != self._day:
            kept: set[date | int] = {today, year}
            self._accepted = {k: n for k, n in self._accepted.items() if k[2] in kept}
            self._day = today
        for period in (today, year):
            place = (service.id, channel, period)
            self._accepted[place] = self._accepted.get(place, 0) + count


def fiscal_year(now: datetime) -> int:
    """Give the year in which the fiscal one began."""
    return now.year if now.month >= FISCAL_MONTH else now.year - 1
