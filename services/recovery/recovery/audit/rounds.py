"""The audit's rounds: follow the log, look again for what is young, walk through all of it.

Rows can also vanish after they were seen. So each record is looked for when it is folded, then
every `AGAIN` seconds while it is young or not sent, and once in each walk through the whole log.

It runs in a thread of recovery, on its own connection and consumers, and shares no lock with the
rounds of the leader: neither can delay the other. It rests three times as long as it works, so it
takes at most a quarter of one connection's time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from courant import clock, metrics
from courant.errors import Refused, Unavailable
from courant.runbooks import Runbook
from courant.topics import Partition, Positions
from recovery.audit import accepted as rules
from recovery.audit.accepted import Accepted
from recovery.audit.log import FOLLOW, WALK
from recovery.audit.store import IDS_MAX, Found

log = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
REST = 3.0
"""Times as long as a look into Postgres took, it rests after it."""
YOUNG = timedelta(minutes=10)
AGAIN_SECONDS = 15.0
WALK_SECONDS = 60.0
"""A walk through the whole log begins at most this often."""
WALK_BYTES = 4 * 1024 * 1024
"""One round's part of the walk: 2 MiB a second, 50 million notifications of 1 KB in seven hours."""
FOLLOW_BYTES = 8 * WALK_BYTES
WINDOW_MAX = 100_000
"""Records that are looked for again and again, about 25 MB."""
MISSING_MAX = 10_000
SHOWN = 5
"""Missing ids that the log line names."""


class Store(Protocol):
    """What the audit needs of Postgres."""

    def take(self) -> bool:
        """Return whether this process audits."""

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return Postgres's positions in these partitions."""

    def look(self, accepted: Sequence[Accepted]) -> Found:
        """Look for at most `IDS_MAX` records in one snapshot."""

    def close(self) -> None:
        """Let another process audit."""


class Log(Protocol):
    """What the audit needs of Kafka."""

    def committed(self) -> Positions:
        """Return how far the groups that fold have committed."""

    def place(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return where a group of the audit's reads on."""

    def keep_place(self, group: str, places: Positions) -> None:
        """Keep the places for the process that audits next."""

    def since(self, at: datetime, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the first offset written at or after a time, where there is one."""

    def read(
        self, group: str, places: Positions, ends: Positions, most_bytes: int
    ) -> tuple[list[Accepted], dict[Partition, int]]:
        """Read about so many bytes before `ends`; return the records and the places after them."""

    def dead(self, missing: Sequence[Accepted]) -> set[str]:
        """Return which of these records have a dead letter, by their origin."""

    def close(self) -> None:
        """Close the clients."""


class Audit:
    """What one process knows while it audits."""

    def __init__(
        self, store: Store, log: Log, rest: Callable[[float], object] = time.sleep
    ) -> None:
        self._store, self._log, self._rest = store, log, rest
        self.missing: dict[str, Accepted] = {}
        self._begin()

    def _begin(self) -> None:
        """Forget everything but the log; the next round finds its place there."""
        self._followed: dict[Partition, int] | None = None
        self._walked: dict[Partition, int] = {}
        self._kept: dict[Partition, int] = {}
        self._window: deque[Accepted] = deque(maxlen=WINDOW_MAX)
        self._again_at = self._walk_at = -float("inf")
        self._walk_began: float | None = None
        self._caught_up_at = self._proved_at = time.monotonic()

    def run(self, stopping: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Make rounds until the stop. No error ends it, because sweeps run in this process."""
        while not stopping():
            try:
                self.make_round()
            except (Unavailable, Refused) as error:
                log.warning("dependency unavailable, retrying", extra={"reason": str(error)})
                self._close()
            except Exception:
                log.exception(
                    "the audit failed, it begins again",
                    extra={"runbook": Runbook.RECOVERY_AUDIT_FAILED},
                )
                self._close()
            self._show()
            wait(ROUND_SECONDS)
        self._close()

    def make_round(self) -> None:
        """Make one round if this process audits; raises Unavailable, Refused."""
        if not self._store.take():
            self.missing = {}
            self._begin()
            return
        committed = self._log.committed()
        partitions = list(committed)
        ends = rules.folded(self._store.positions(partitions), committed)
        if self._followed is None:
            self._find_place(partitions)
        self._follow(ends)
        now = time.monotonic()
        if now - self._again_at >= AGAIN_SECONDS:
            self._again_at = now
            self._look_again()
        if now >= self._walk_at:
            self._walk(now, ends)

    def _find_place(self, partitions: Sequence[Partition]) -> None:
        """Read on where the last process stopped, and read again what is young."""
        place = rules.places(self._log.place(FOLLOW, partitions), partitions)
        young = self._log.since(clock.now() - YOUNG, partitions)
        self._followed = {each: min(at, young.get(each, at)) for each, at in place.items()}
        self._walked = self._log.place(WALK, partitions)

    def _follow(self, ends: Positions) -> None:
        # After a restore the ends are lower, and what is folded again is looked for again.
        known = rules.places(self._followed or {}, ends)
        followed = {each: min(place, ends[each]) for each, place in known.items()}
        found, reached = self._log.read(FOLLOW, followed, ends, FOLLOW_BYTES)
        unsent = self._look(found)
        self._window.extend(rules.kept(found, unsent, clock.now() - YOUNG))
        self._followed = {**followed, **reached}
        if all(place >= ends[each] for each, place in self._followed.items()):
            self._caught_up_at = time.monotonic()
        kept = rules.held_back(self._followed, self.missing.values())
        if kept != self._kept:
            self._log.keep_place(FOLLOW, kept)
            self._kept = kept

    def _look_again(self) -> None:
        unsent = self._look([*self._window])
        young = rules.kept(self._window, unsent, clock.now() - YOUNG)
        self._window = deque(young, maxlen=WINDOW_MAX)
        # What a restore is about to fold again is not found missing, and leaves the list.
        known = [*self.missing.values()]
        parts = (known[first : first + IDS_MAX] for first in range(0, len(known), IDS_MAX))
        still = [each for part in parts for each in self._store.look(part).missing]
        self.missing = {each.origin: each for each in still}

    def _walk(self, now: float, ends: Positions) -> None:
        """Read a part of the walk through the whole log, up to where it is followed."""
        if self._walk_began is None:
            self._walk_began = now
        walked = rules.places(self._walked, ends)
        followed = rules.places(self._followed or {}, ends)
        found, reached = self._log.read(WALK, walked, followed, WALK_BYTES)
        self._look(found)
        self._walked = {**walked, **reached}
        if all(place >= followed[each] for each, place in self._walked.items()):
            self._proved_at, self._walk_at = self._walk_began, self._walk_began + WALK_SECONDS
            self._walk_began = None
            self._walked = reached = dict.fromkeys(ends, 0)
        self._log.keep_place(WALK, reached)

    def _look(self, accepted: Sequence[Accepted]) -> set[UUID]:
        """Look for these records and note those that are missing; return the ids not sent yet."""
        missing: list[Accepted] = []
        unsent: set[UUID] = set()
        for first in range(0, len(accepted), IDS_MAX):
            part = accepted[first : first + IDS_MAX]
            began = time.monotonic()
            found = self._store.look(part)
            missing += found.missing
            unsent |= found.unsent
            metrics.AUDIT_CHECKED.inc(len(part))
            self._rest(REST * (time.monotonic() - began))
        new = [each for each in missing if each.origin not in self.missing]
        dead = self._log.dead(new) if new else set()
        self._report([each for each in new if each.origin not in dead])
        return unsent

    def _report(self, lost: Sequence[Accepted]) -> None:
        """Note the records that are lost, and log them once."""
        lost = lost[: MISSING_MAX - len(self.missing)]
        if not lost:
            return
        self.missing |= {each.origin: each for each in lost}
        log.error(
            "accepted notifications are missing in Postgres",
            extra={
                "missing": len(self.missing),
                "ids": [str(each.id) for each in lost[:SHOWN]],
                "restore_since": rules.since_text(self.missing.values()),
                "runbook": Runbook.RECOVERY_AUDIT_MISSING,
            },
        )

    def _show(self) -> None:
        now = time.monotonic()
        metrics.AUDIT_MISSING.set(len(self.missing))
        metrics.AUDIT_AGE.labels("new").set(now - self._caught_up_at)
        metrics.AUDIT_AGE.labels("all").set(now - self._proved_at)

    def _close(self) -> None:
        """Let another process audit. The ages go on, and what is missing is still shown."""
        self._store.close()
        self._log.close()
        self._followed = None
        self._window.clear()
