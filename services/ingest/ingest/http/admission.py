"""Places for what takes long: few at once, of which one service has half.

All uploads together leave time for other requests.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from ingest.http.answers import Answer
from ingest.http.asgi import AnsweredEarly

SLICE_SECONDS = 0.002
"""How long an upload works before others have their turn."""
REST_SECONDS = 0.001
"""How long nobody works on uploads after each slice: one round is not enough, a request takes
several. One job of 300,000 rows on two busy cores: p99 of single emails beside it was 28 ms, 31 ms
without a job, 65 ms with no rest.
"""


@dataclass(slots=True)
class Slots:
    """Who is being served."""

    limit: int
    refusal: Answer  # to those whom there is no place for
    by_service: Counter[UUID] = field(default_factory=Counter)  # by service

    @property
    def in_use(self) -> int:
        return self.by_service.total()

    @contextmanager
    def acquire(self, service: UUID) -> Iterator["Pace"]:
        """Hold a place for a service.

        Raises AnsweredEarly where there is none left, or where it has half of them, rounded up.
        """
        half = (self.limit + 1) // 2
        if self.in_use >= self.limit or self.by_service[service] >= half:
            raise AnsweredEarly(self.refusal)
        self.by_service[service] += 1
        try:
            yield Pace(self)
        finally:
            self.by_service -= Counter([service])  # which forgets those who have none


@dataclass(slots=True)
class Pace:
    """Tells one of them when to let others have their turn."""

    slots: Slots
    began: float = field(default_factory=monotonic)

    @property
    def must_rest(self) -> bool:
        return monotonic() - self.began > SLICE_SECONDS

    async def rest(self) -> None:
        turns = self.slots.in_use * (SLICE_SECONDS + REST_SECONDS)
        await asyncio.sleep(turns - SLICE_SECONDS)
        self.began = monotonic()
