"""A Postgres in memory, with the parts that the saver and the deliverer use.

It has atomic transactions, of which the first to commit wins; the position in the log; holds; and a
server that comes back in an earlier state. It has no days, and only one kind of lock: rows that
another session has locked.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from courant.contracts import Attempt, Notification, Started, UntaggedReceipt
from courant.errors import Behind, Refused, Shortened, Unavailable, require
from courant.lifecycle import RANKS, VALID_HOURS, Move, Note, Report, State, outdated, shows
from courant.records import Keep, Span, require_known, starts_of
from courant.testing.folded import folded, own
from courant.testing.jobs import holder_of
from courant.testing.kafka import Surroundings
from courant.testing.tables import LEASE, FakeRefold, FakeRow, Tables
from courant.topics import INBOX, Folded, Lane, Partition, Positions

T = TypeVar("T")
INBOXES = frozenset(INBOX.names())


class FakeStore:
    """The saver's store, together with the deliverer's claim."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.tables = Tables()
        self.locked: set[UUID] = set()  # rows that another session has locked
        self._past: list[Tables] = []  # the tables after each commit
        self._first = self.tables  # before all of them
        self._server = 0

    def roll_back(self) -> None:
        """Undo the newer half of all commits; transactions that are open fail when they commit."""
        del self._past[len(self._past) // 2 :]
        self.tables = (self._past[-1] if self._past else self._first).copy()
        self._server += 1

    def lose_rows(self, lost: Collection[UUID], starts: Positions) -> None:
        """Delete these rows, as a person does by hand, and set the positions back to `starts`."""
        tables = self.tables.copy()
        for id in lost:
            del tables.rows[id]
        tables.set_back(starts, self.world.now())
        self.tables = tables
        self._past.append(tables)

    def forget_past(self) -> None:
        """Let no later `roll_back` go behind the present tables."""
        self._past, self._first = [], self.tables

    @property
    def is_whole(self) -> bool:
        """Whether no fault of Postgres is still to be noticed or made good."""
        return self.tables.server == self._server and not self.tables.held

    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        """Yield a copy of the tables and commit it.

        Raises Unavailable if another transaction committed meanwhile.
        """
        before, tables = self.tables, self.tables.copy()
        if tables.server != self._server:
            tables.server = self._server
            tables.hold(self.world.now())
        try:
            yield tables
        except Behind:
            with self.transaction() as tables:
                tables.hold(self.world.now())
            raise
        if tables == before:
            return  # the transaction changed nothing
        self.world.pass_by()
        if self.tables is not before:
            raise Unavailable("the connection was lost")
        self.tables = tables
        self._past.append(tables)
        added = tables.events[len(before.events) :]
        self.world.journal += [(str(move), str(id)) for move, id, *_ in added]
        self.world.pass_by()

    def compare(self, positions: Positions) -> Mapping[Partition, Folded]:
        with self.transaction() as tables:
            require(positions, {each: folded(tables, each).next for each in positions})
            return {each: folded(tables, each) for each in positions}

    def cut(self, shortened: Shortened) -> None:
        with self.transaction() as tables:
            for each, first in shortened.firsts.items():
                if folded(tables, each) != shortened.folded[each]:
                    continue  # another process has cut it
                tables.positions[each] = first
                tables.times[each] = shortened.folded[each].at
                tables.hold(self.world.now())
                tables.open_all()

    def skip(self, starts: Positions) -> None:
        with self.transaction() as tables:
            for each, start in starts.items():
                tables.positions[each] = max(tables.positions.get(each, 0), start)

    def fold_aside(self) -> None:
        """Nothing is ever set aside here."""

    @contextmanager
    def fold(self, span: Span) -> Iterator["FakeFold"]:
        with self.moving_on(span) as (tables, places):
            yield FakeFold(tables, places, self.world.now())

    @contextmanager
    def moving_on(self, span: Span) -> Iterator[tuple[Tables, Positions]]:
        """Begin a transaction that moves Postgres's position past `span`.

        Yields the tables and the positions before it. Raises Behind.
        """
        with self.transaction() as tables:
            require(starts_of(span), tables.positions)
            require_known(span, {each: own(tables, each) for each in span})
            places = dict(tables.positions)
            for each, stretch in span.items():
                tables.move_on(each, stretch)
            yield tables, places

    def claim(self, ids: Iterable[UUID], lane: Lane = Lane.NORMAL) -> list[FakeRow]:
        """Claim the rows that wait and are due, each for an attempt that was never used before.

        Rows that are locked or past their time limit, and those of a paused or cancelled job, are
        skipped. Raises Unavailable under a hold; the hold of jobs stops the bulk lane alone.
        """
        claimed = []
        now = self.world.now()
        with self.transaction() as tables:
            if tables.held or (lane is Lane.BULK and tables.jobs.held):
                raise Unavailable("on hold")
            for id in ids:
                row = tables.rows.get(id)
                if not row or id in self.locked or (row.not_before and row.not_before > now):
                    continue
                since = row.notification.scheduled_for or row.notification.accepted_at
                if since <= now - timedelta(hours=VALID_HOURS):
                    continue
                if not tables.jobs.runs(row.notification.job_id):
                    continue
                if Move.CLAIMED.allows(row.state, row.attempt, row.attempt):
                    attempt = max(row.attempt + 1, tables.epoch)
                    tables.events.append((Move.CLAIMED, id, attempt, True))
                    tables.rows[id] = replace(
                        row, state=State.CLAIMED, attempt=attempt, lease_until=now + LEASE
                    )
                    claimed.append(tables.rows[id])
        return claimed


class FakeFold:
    """A transaction on tables that no other transaction sees yet."""

    def __init__(self, tables: Tables, places: Positions, now: datetime) -> None:
        self._tables, self._places, self._now = tables, places, now

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        return fresh(kept, self._places)

    locked: Collection[UUID] = ()  # there are no locks here

    def put_aside(self, reports: Sequence[object]) -> None:
        assert not reports

    def find(self, message_ids: set[str], since: UUID) -> Mapping[str, Attempt]:
        return {
            row.message_id: Attempt(id=id, attempt=row.attempt)
            for id, row in sorted(self._tables.rows.items())
            if row.message_id in message_ids and id >= since
        }

    def wait(self, receipts: Sequence[Keep[UntaggedReceipt]]) -> None:
        for each in receipts:
            self._tables.waiting.setdefault(each.value.sns_id, each.value)

    def refold(self) -> "FakeRefold":
        return FakeRefold(self._tables, self._places)

    def lock(self, ids: set[UUID]) -> tuple[set[UUID], dict[UUID, UUID]]:
        missing = ids - self._tables.rows.keys()
        aliases = self._tables.jobs.aliases
        winners = {id: aliases[id] for id in missing if id in aliases}
        missing -= {id for id, winner in winners.items() if winner in self._tables.rows}
        if missing and not self._tables.passed(INBOXES):
            raise Unavailable("rows may still be in the inbox")
        return missing, winners

    def save(self, notifications: Sequence[Notification]) -> Sequence[Notification]:
        refuse([each.reference for each in notifications], "22021: CharacterNotInRepertoire")
        conflicting = self._judge([each for each in notifications if each.idempotency_key])
        for each in notifications:
            if each.id not in self._tables.rows and each.id not in self._tables.jobs.aliases:
                due = each.scheduled_for
                # Before its time, so that the sweep `due` finds it however late it was saved.
                issued_at = min(self._now, due - timedelta(microseconds=1)) if due else self._now
                self._tables.rows[each.id] = FakeRow(each, not_before=due, issued_at=issued_at)
                self._tables.events.append((Move.SAVED, each.id, 0, True))
        for id in conflicting:
            self._move(Report(id, 0, Move.CONFLICTED))
        return [each for each in notifications if self._waits(each.id)]

    def _judge(self, keyed: Sequence[Notification]) -> list[UUID]:
        """Let each key stand for one of its requests. Returns ids that came with another body."""
        rows, jobs = self._tables.rows, self._tables.jobs
        conflicting = []
        for each in sorted(keyed, key=lambda each: (each.accepted_at, each.id)):
            assert each.idempotency_key
            if each.id in rows or each.id in jobs.aliases:
                continue
            movable = {id for id in rows if self._waits(id)}
            new = holder_of(each)
            for loser in jobs.judge(each.service_id, each.idempotency_key, new, movable):
                if loser.same_body:
                    jobs.make_alias(loser)
                    rows.pop(loser.id, None)
                else:
                    conflicting.append(loser.id)
        return conflicting

    def _waits(self, id: UUID) -> bool:
        row = self._tables.rows.get(id)
        return row is not None and row.state is State.CREATED and row.attempt == 0

    def settle(
        self, rounds: Sequence[Sequence[Report]], opened: Sequence[Started], closed: Sequence[UUID]
    ) -> None:
        texts = [each.reason for reports in rounds for each in reports]
        refuse(texts, "22P05: UntranslatableCharacter")
        for call in opened:
            for each in call.attempts:
                self._tables.calls.setdefault((call.call, each.id), each.attempt)
        for reports in rounds:
            # An UPDATE … FROM applies only one of several reports on a row, and any of them.
            for report in {each.id: each for each in reports}.values():
                self._move(report)
        for entry in [entry for entry in self._tables.calls if entry[0] in closed]:
            del self._tables.calls[entry]

    def trial(self) -> AbstractContextManager[None]:
        return self._tables.trial()

    def restart_grace(self) -> None:
        self._tables.no_receipts_until = max(self._tables.marks, default=None)

    def _move(self, report: Report) -> None:
        row = self._tables.rows.get(report.id)
        if not row:
            return
        made = isinstance(report.move, Note)
        moved = (
            isinstance(report.move, Move)
            and report.move.allows(row.state, row.attempt, report.attempt)
            and not outdated(report, row.state, row.receipt_at)
        )
        if moved and isinstance(report.move, Move):
            made = True
            times = [row.receipt_at, report.judged_at if report.move in RANKS else None]
            again = report.move.after is State.CREATED
            begun = report.move is Move.STARTED
            self._tables.rows[report.id] = replace(
                row,
                state=report.move.after,
                attempt=max(row.attempt, report.attempt),
                tries=0 if report.move is Move.REDRIVEN else row.tries + report.blames,
                not_before=self._now + report.retry_after if again else row.not_before,
                lease_until=self._now + LEASE if begun else row.lease_until,
                message_id=report.message_id or row.message_id,
                receipt_at=max(filter(None, times), default=None),
            )
        heard = report.happened_at and (report.id, str(report.move), report.happened_at)
        known = heard in self._tables.heard
        if moved or (shows(report, row.attempt) and not known):
            self._tables.events.append((report.move, report.id, report.attempt, made))
            if heard:
                self._tables.heard.add(heard)


def fresh(kept: Sequence[Keep[T]], positions: Positions) -> list[Keep[T]]:
    """Return the records that no transaction before these positions has folded."""
    return [each for each in kept if each.record.offset >= positions.get(each.record.partition, 0)]


def refuse(texts: Iterable[str | None], reason: str) -> None:
    """Raise Refused as Postgres would, because its texts cannot contain a NUL."""
    if any("\0" in text for text in texts if text):
        raise Refused(reason)
