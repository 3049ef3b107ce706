"""Takes the leader's marks, in a thread and on a connection of their own.

A sweep that takes a minute must not delay a mark: fifteen seconds without marks of `receipts` look
as if no receipt could have come (`rules.GAP`), so that no unknown call would ever be resolved.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from courant.errors import Unavailable
from recovery import marks
from recovery.leader import MarksLock

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Marker:
    """Takes marks while this process leads, and lifts the holds that they allow to lift."""

    lock: MarksLock
    leads: Callable[[], bool]
    offsets: marks.Offsets
    lease: timedelta
    margin: timedelta

    def run(self, wait: Callable[[float], bool]) -> None:
        """Take a mark each second until `wait` returns true; then resign."""
        while True:
            try:
                self.mark()
            except Unavailable as unavailable:
                log.warning(
                    "dependency unavailable, retrying",
                    extra={"task": "mark", "reason": str(unavailable)},
                )
            if wait(EVERY_SECONDS):
                self._resign()
                return

    def mark(self) -> None:
        """Take one mark if this process leads; raises Unavailable."""
        if not self.leads():
            self._resign()
            return
        store = self.lock.take()
        if store is None:  # a former leader, maybe a frozen one, has not released it yet
            return
        marks.take(store, self.offsets)
        marks.lift(store, self.lease, self.margin)
        marks.show_folded(store)

    def _resign(self) -> None:
        self.lock.resign()
        self.offsets.close()
