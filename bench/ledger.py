"""Reads the sandbox's ledger: the messages that the provider booked."""

import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec

from courant.contracts import Time

LOOK_SECONDS = 0.1


class Booking(msgspec.Struct):
    """A line of the ledger."""

    at: Time
    notification_id: str | None


decode = msgspec.json.Decoder(Booking).decode


class Bookings:
    """The lines that are booked from now on."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._read_to = ledger.stat().st_size
        self.made: list[Booking] = []

    def wait(self, count: int, seconds: float) -> None:
        """Return once exactly that many are booked; raises AssertionError after the deadline."""
        self.wait_at_least(count, seconds)
        assert len(self.made) == count, f"{len(self.made)} were booked, {count} were wanted"

    def wait_at_least(self, count: int, seconds: float) -> None:
        """Return once at least that many are booked; raises AssertionError after the deadline."""
        until = time.monotonic() + seconds
        while self._read() < count:
            assert time.monotonic() < until, f"{len(self.made)} of {count} were booked"
            time.sleep(LOOK_SECONDS)

    def of(self, ids: set[str], seconds: float) -> list[Booking]:
        """Return the lines of these notifications once all are booked, ignoring others."""
        until = time.monotonic() + seconds
        while True:
            self._read()
            found = [each for each in self.made if each.notification_id in ids]
            if len(found) >= len(ids):
                return found
            assert time.monotonic() < until, f"{len(found)} of {len(ids)} were booked"
            time.sleep(LOOK_SECONDS)

    def rate(self) -> float:
        """Return the bookings per second, from the first call to the last."""
        calls: Counter[datetime] = Counter(each.at for each in self.made)
        first, last = min(calls), max(calls)
        return (len(self.made) - calls[first]) / (last - first).total_seconds()

    def _read(self) -> int:
        with self._ledger.open("rb") as file:
            file.seek(self._read_to)
            came = file.read()
        whole = came[: came.rfind(b"\n") + 1]  # the last line may be incomplete
        self._read_to += len(whole)
        self.made += map(decode, whole.splitlines())
        return len(self.made)
