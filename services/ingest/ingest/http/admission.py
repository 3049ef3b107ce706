"""Slots for long requests: only a few run at once, and one service has at most half of them.

All uploads together leave processor time for other requests, because each one rests in turn.
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
"""How long an upload works before it rests."""
REST_SECONDS = 0.001
"""How long no upload works after each slice.

One turn of the event loop is not enough, because a request takes several. Measured with one job of
300,000 rows on two busy cores: the p99 of single emails beside it was 28 ms. It was 31 ms without
a job, and 65 ms when uploads did not rest.
"""


@dataclass(slots=True)
class Slots:
    """The slots, and how many of them each service holds."""

    limit: int
    refusal: Answer  # for a service that gets no slot
    by_service: Counter[UUID] = field(default_factory=Counter)

    @property
    def in_use(self) -> int:
        return self.by_service.total()

    @contextmanager
    def acquire(self, service: UUID) -> Iterator["Pace"]:
        """Hold a slot for a service.

        Raises AnsweredEarly if no slot is free, or if the service holds half of them, rounded up.
        """
        half = (self.limit + 1) // 2
        if self.in_use >= self.limit or self.by_service[service] >= half:
            raise AnsweredEarly(self.refusal)
        self.by_service[service] += 1
        try:
            yield Pace(self)
        finally:
            self.by_service -= Counter([service])  # subtraction drops services that hold none


@dataclass(slots=True)
class Pace:
    """Reports to the holder of a slot when it must rest, so that other requests run."""

    slots: Slots
    began: float = field(default_factory=monotonic)

    @property
    def must_rest(self) -> bool:
        """Report whether the holder has worked for a whole slice."""
        return monotonic() - self.began > SLICE_SECONDS

    async def rest(self) -> None:
        """Sleep for the slices of the other holders, and for the rest after each slice."""
        turns = self.slots.in_use * (SLICE_SECONDS + REST_SECONDS)
        await asyncio.sleep(turns - SLICE_SECONDS)
        self.began = monotonic()
