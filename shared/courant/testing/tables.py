"""The content of the fake Postgres: its tables, and what its statements share."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from courant.contracts import Notification, UntaggedReceipt
from courant.lifecycle import Move, State
from courant.records import Stretch
from courant.testing.builders import NOW
from courant.testing.folded import own
from courant.testing.jobs import JobTables
from courant.topics import RECEIPTS, Partition, Positions

LEASE = timedelta(seconds=10)
IN_DOUBT = 1 << 100
"""Calls from this id on are opened by a cut, for attempts that the log may have lost."""


@dataclass(frozen=True)
class FakeRow:
    """A row of the table `notifications`."""

    notification: Notification
    state: State = State.CREATED
    attempt: int = 0
    tries: int = 0
    not_before: datetime | None = None
    issued_at: datetime = NOW
    lease_until: datetime | None = None
    receipt_at: datetime | None = None
    message_id: str | None = None


@dataclass
class Tables:
    """The whole content of Postgres."""

    rows: dict[UUID, FakeRow] = field(default_factory=dict)
    events: list[tuple[str, UUID, int, bool]] = field(default_factory=list)
    heard: set[tuple[UUID, str, datetime]] = field(default_factory=set)  # events of receipts
    waiting: dict[str, UntaggedReceipt] = field(default_factory=dict)  # by SNS's MessageId
    calls: dict[tuple[UUID, UUID], int] = field(default_factory=dict)  # attempts, by call and id
    positions: dict[Partition, int] = field(default_factory=dict)
    refolds: dict[Partition, tuple[int, int]] = field(default_factory=dict)  # below, after event
    times: dict[Partition, datetime | None] = field(default_factory=dict)  # of the positions
    marks: dict[datetime, Positions] = field(default_factory=dict)
    no_receipts_until: datetime | None = None  # marks of `receipts` up to this time are deleted
    jobs: JobTables = field(default_factory=JobTables)
    held: bool = False
    raised_at: datetime = NOW
    epoch: int = 0
    server: int = 0  # the start of a server that last wrote here

    def hold(self, now: datetime) -> None:
        """Raise the hold, or renew it."""
        self.held = True
        self.jobs.held = True
        self.raised_at = now
        self.epoch = int((now - NOW).total_seconds()) + 1
        self.marks = {}
        self.no_receipts_until = None

    def set_back(self, starts: Positions, now: datetime) -> None:
        """Raise the hold and set the positions back to these, never forward."""
        self.hold(now)
        for each, start in starts.items():
            position, (below, after) = self.positions.get(each, 0), self.refolds.get(each, (0, 0))
            if position > start:
                self.positions[each] = start
                after = after if position < below else len(self.events)
                self.refolds[each] = max(below, position), after

    def passed(self, topics: Collection[str], places: Positions | None = None) -> datetime | None:
        """Return T: the time of the newest mark that all partitions of these topics passed."""
        found = self.positions if places is None else places
        # Newest first, because most often one of the newest marks is passed.
        for time in sorted(self.marks, reverse=True):
            ends = self.marks[time]
            if RECEIPTS.name in topics and not self.counts_receipts(time):
                return None
            if all(found.get(each, 0) >= ends[each] for each in ends if each.topic in topics):
                return time
        return None

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Undo at the end whatever is done inside."""
        kept = self.copy()
        try:
            yield
        finally:
            self.__dict__.update(kept.__dict__)

    def move_on(self, partition: Partition, stretch: Stretch) -> None:
        """Move the position on past these records."""
        next, at = own(self, partition)
        self.positions[partition] = max(next, stretch.stop)
        if stretch.stop >= next:
            self.times[partition] = max(at or stretch.newest, stretch.newest)

    def open_all(self) -> None:
        """Open a call for each claimed row."""
        claimed = [row for row in self.rows.values() if row.state is State.CLAIMED]
        for call, row in enumerate(claimed, IN_DOUBT):
            self.calls[UUID(int=call), row.notification.id] = row.attempt

    def counts_receipts(self, time: datetime) -> bool:
        """Return whether the mark of this time still has the ends of `receipts`."""
        return self.no_receipts_until is None or time > self.no_receipts_until

    def copy(self) -> "Tables":
        """Copy the tables; rows are never changed, only replaced."""
        return replace(
            self,
            rows=self.rows.copy(),
            events=self.events.copy(),
            heard=self.heard.copy(),
            waiting=self.waiting.copy(),
            calls=self.calls.copy(),
            positions=self.positions.copy(),
            refolds=self.refolds.copy(),
            times=self.times.copy(),
            jobs=self.jobs.copy(),
        )


class FakeRefold:
    """What is folded again after the positions were set back."""

    def __init__(self, tables: Tables, places: Positions) -> None:
        under_way = {
            each: refold
            for each, refold in tables.refolds.items()
            if places.get(each, 0) < refold[0]
        }
        self.below: Positions = {each: below for each, (below, _) in under_way.items()}
        self._since = tables.events[min((after for _, after in under_way.values()), default=0) :]

    def stayed(self, ids: set[UUID]) -> set[UUID]:
        return ids - {id for move, id, *_ in self._since if move == Move.SAVED}
