"""Places for uploads: few at once, and all of them together leave time for other requests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from ingest.answers import unavailable
from ingest.http import Refused

SLICE_SECONDS = 0.002
"""How long an upload works before others have their turn."""
REST_SECONDS = 0.001
"""How long nobody works on uploads after each slice: one round is not enough, a request takes
several. One job of 300,000 rows on two busy cores: p99 of single emails beside it was 28 ms, 31 ms
without a job, 65 ms with no rest.
"""
TOO_MANY = unavailable("Too many files are being taken, try again")


@dataclass(slots=True)
class Places:
    """Who is being served."""

    most: int
    taken: int = 0

    @contextmanager
    def one(self) -> Iterator["Pace"]:
        """Hold a place; raises Refused where there is none left."""
        if self.taken >= self.most:
            raise Refused(TOO_MANY)
        self.taken += 1
        try:
            yield Pace(self)
        finally:
            self.taken -= 1


@dataclass(slots=True)
class Pace:
    """Tells one of them when to let others have their turn."""

    places: Places
    began: float = field(default_factory=monotonic)

    @property
    def due(self) -> bool:
        return monotonic() - self.began > SLICE_SECONDS

    async def rest(self) -> None:
        turns = self.places.taken * (SLICE_SECONDS + REST_SECONDS)
        await asyncio.sleep(turns - SLICE_SECONDS)
        self.began = monotonic()
