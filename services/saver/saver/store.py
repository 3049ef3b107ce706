"""The saver's SQL."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import product
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine

from courant import ids, lifecycle
from courant.contracts import ENCODE, Attempt, Notification, Started, UntaggedReceipt
from courant.errors import Unavailable
from courant.idempotency import OTHER_BODY
from courant.lifecycle import Move, Note, Report, State
from courant.postgres import folding, keys
from courant.postgres.blockers import Blocker
from courant.postgres.database import array, classified_errors, copy_lines
from courant.postgres.days import DAILY, MAKE_DAY
from courant.postgres.folding import Cursor, Folding, trial
from courant.postgres.refolds import Refold
from courant.postgres.tables import WITH_CONTENT, notifications
from courant.records import Keep, Record, Span
from courant.topics import INBOX, Positions
from saver.aside import RowLocks
from saver.idempotency import judge

T = TypeVar("T")

# ruff: noqa: S608  (no part of the SQL that is assembled here comes from outside)

COLUMNS = tuple(name for name in Notification.__struct_fields__ if name in notifications.c)
NAMES = ", ".join(COLUMNS)
VALUES = attrgetter(*COLUMNS)

# The inbox's topics that are folded past one of their marks. Raising a hold deletes all marks, so a
# mark that is there was taken after the hold was raised. The oldest marks are looked at first, so
# that most often one of each topic is enough.
PASSED = """
    SELECT FROM unnest(%s) AS inbox (topic) CROSS JOIN LATERAL (
        SELECT FROM marks m WHERE m.topic = inbox.topic AND NOT EXISTS (
            SELECT FROM unnest(m.ends) WITH ORDINALITY AS each (end_, nth)
            LEFT JOIN positions p ON p.topic_id = m.topic_id AND p.partition = nth - 1
            WHERE end_ > coalesce(p.next, 0))
        ORDER BY m.at LIMIT 1) AS passed"""

# To recovery, a time without marks is a gap in which no receipt could come.
RESTART_GRACE = "DELETE FROM marks WHERE family = 'receipts'"
INCOMING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (LIKE notifications INCLUDING DEFAULTS)
    ON COMMIT DELETE ROWS"""
COPY = f"COPY incoming ({NAMES}) FROM STDIN"
# ON CONFLICT is the guard of SAVED: an existing row gets neither a second row nor a second event.
# ORDER BY prevents a deadlock between two savers that insert the same ids. However late a scheduled
# row is saved, its last order seems to be from before its time, so that the sweep `due` finds it.
SAVE = f"""
    WITH saved AS (
        INSERT INTO notifications ({NAMES}, not_before, issued_at)
        SELECT {NAMES}, scheduled_for, least(now(), scheduled_for - interval '1 microsecond')
        FROM incoming ORDER BY id
        ON CONFLICT (id) DO NOTHING RETURNING id, attempt)
    INSERT INTO events (id, move, attempt) SELECT id, '{Move.SAVED}', attempt FROM saved"""
WAITING = f"""
    SELECT id FROM notifications
    WHERE state = '{State.CREATED}' AND attempt = 0 AND id = ANY(%s::uuid[])"""

CONFLICT = f"""
    WITH refused AS (
        UPDATE notifications n SET state = '{Move.CONFLICTED.after}', state_at = now(),
            reason = '{OTHER_BODY}', response = '{OTHER_BODY}'
        WHERE id = ANY(%s::uuid[]) AND {Move.CONFLICTED.condition()} RETURNING id, attempt, reason)
    INSERT INTO events (id, move, attempt, reason)
    SELECT id, '{Move.CONFLICTED}', attempt, reason FROM refused"""
FIND = """
    SELECT message_id, id, attempt FROM notifications
    WHERE message_id = ANY(%s) AND id >= %s ORDER BY id"""
WAIT = """
    INSERT INTO receipts_waiting (sns_id, message_id, value, partition, "offset", at)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
OPEN = """
    INSERT INTO calls (id, notification, attempt)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::int[]) ON CONFLICT DO NOTHING"""
CLOSE = "DELETE FROM calls WHERE id = ANY(%s::uuid[])"
# The log may have lost the `started` of a claimed row before it was folded, and the provider may
# have the message. Without a call the row would look as if it had never been started, and would be
# sent again at once. Recovery closes the calls of attempts that have ended.
OPEN_ALL = f"""
    INSERT INTO calls (id, notification, attempt)
    SELECT gen_random_uuid(), id, attempt FROM notifications WHERE state = '{State.CLAIMED}'"""
# - UPDATE changes a row once, so a round may hold a row only once.
# - A report that changes no row becomes an event only if its claim was lost. A row that is claimed
#   already is what `started` expects, so that is no event.
# - A receipt that comes again, as a repeated post or through a second subscription, has the move
#   and the time of its event. Only receipts that move nothing are looked up.
# - `not_before` of a row that may go again uses clock_timestamp(), not the transaction's start.
#   Otherwise it could lie before `issued_at`, and the row would look as if it had its order.
# - NOT IN is a hash lookup whatever the planner expects of `moved`. As a join, 12,500 reports took
#   12 s (make bench).
# - The ids are passed beside the reports so that the planner knows how many there are. Of JSON it
#   expects 100 rows, and then looks up each row with the whole list of ids as a filter: 5,000
#   reports took 3.4 s, and take 0.15 s now (decision 0008).
# - The provider's words may quote an address: once a row is emptied, it gets none any more.
RETRYING = lifecycle.quoted(move for move in lifecycle.REPORTED if move.after is State.CREATED)
SENT_MOVES = lifecycle.quoted(
    [Move.SENT, Move.HANDED_OVER, Move.DELIVERED, Move.DELAYED, Move.BOUNCED, Move.OPTED_OUT]
)
MOVE = f"""
    WITH r AS (SELECT * FROM ROWS FROM (
        json_to_recordset(%(reports)s) AS (id uuid, attempt int, move text, reason text,
            retry_after interval, blames bool, message_id text, response text,
            happened_at timestamptz, weak bool),
        unnest(%(ids)s::uuid[])) AS r),
    moved AS (
        UPDATE notifications n SET state = {lifecycle.after()}, state_at = now(),
            attempt = greatest(n.attempt, r.attempt),
            tries = CASE r.move WHEN '{Move.REDRIVEN}' THEN 0 ELSE n.tries + r.blames::int END,
            not_before = CASE WHEN r.move IN ({RETRYING})
                THEN clock_timestamp() + r.retry_after ELSE n.not_before END,
            lease_until = CASE r.move WHEN '{Move.STARTED}'
                THEN now() + %(lease)s ELSE n.lease_until END,
            sent_at = CASE WHEN r.move IN ({SENT_MOVES})
                THEN coalesce(n.sent_at, now()) ELSE n.sent_at END,
            message_id = coalesce(r.message_id, n.message_id),
            reason = r.reason,
            response = CASE WHEN n.{WITH_CONTENT} THEN r.response END,
            receipt_at = CASE WHEN r.move IN ({lifecycle.quoted(lifecycle.RANKS)})
                THEN greatest(n.receipt_at, {lifecycle.sql_judged_at()}) ELSE n.receipt_at END
        FROM r WHERE n.id = r.id AND n.id = ANY(%(ids)s::uuid[])
            AND ({lifecycle.condition()})
            AND ({lifecycle.sql_outdated()}) IS NOT TRUE
        RETURNING r.id, r.move, r.attempt, r.reason, r.happened_at)
    INSERT INTO events (id, move, attempt, made, reason, happened_at)
    SELECT id, move, attempt, true, reason, happened_at FROM moved
    UNION ALL
    SELECT r.id, r.move, r.attempt, r.move IN ({lifecycle.quoted(Note)}), r.reason, r.happened_at
    FROM r JOIN notifications n ON n.id = r.id AND n.id = ANY(%(ids)s::uuid[])
    WHERE r.id NOT IN (SELECT id FROM moved) AND {lifecycle.shown()}
        AND (r.happened_at IS NULL OR NOT EXISTS (SELECT FROM events e
            WHERE e.id = r.id AND e.id = ANY(%(ids)s::uuid[])
                AND e.move = r.move AND e.happened_at = r.happened_at))"""


class PostgresStore(Folding):
    """The store on PostgreSQL: one transaction and a few statements for a batch of any size."""

    def __init__(self, engine: Engine, lease: timedelta) -> None:
        super().__init__(engine)
        self.lease = lease
        self._days: set[int] = set()  # days whose partitions are known to exist

    @contextmanager
    def fold(self, span: Span) -> Iterator["PostgresFold"]:
        with self.moving_on(span) as (connection, cursor, positions):
            yield PostgresFold(self, connection, cursor, positions)

    def lost_records(self, cursor: Cursor) -> None:
        """Open a call for each claimed row.

        Whichever topic shows the loss, `delivery` may have lost records that were not folded.
        """
        cursor.execute(OPEN_ALL)

    def make_days(self, days: set[int]) -> None:
        """Create the partitions of these days that do not exist yet."""
        if days <= self._days:
            return
        with self.transaction() as (_, cursor):
            for day, table in product(sorted(days - self._days), DAILY):
                cursor.execute(MAKE_DAY, {"daily": table, "day": day})
        self._days |= days

    def fold_aside(self) -> list[Blocker] | None:
        with self.transaction() as (connection, cursor):
            return PostgresFold(self, connection, cursor, {}).fold_aside()

    @contextmanager
    def transaction(self) -> Iterator[tuple[Connection, Cursor]]:
        try:
            with super().transaction() as begun:
                yield begun
        except Unavailable:
            self._days.clear()  # the Postgres that comes back may be an older copy without them
            raise


class PostgresFold:
    """One transaction of the store; `positions` is how far the log was folded before it."""

    def __init__(
        self,
        store: PostgresStore,
        connection: Connection,
        cursor: Cursor,
        positions: Positions,
    ) -> None:
        self._store, self._connection, self._cursor = store, connection, cursor
        self._positions = positions
        self._rows = RowLocks(connection, cursor, self._move)

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        return folding.fresh(kept, self._positions)

    def find(self, message_ids: set[str], since: UUID) -> Mapping[str, Attempt]:
        self._cursor.execute(FIND, [list(message_ids), since])
        return {message: Attempt(id=id, attempt=attempt) for message, id, attempt in self._cursor}

    def wait(self, receipts: Sequence[Keep[UntaggedReceipt]]) -> None:
        for each in receipts:
            record, receipt = each.record, each.value
            place = [record.partition.number, record.offset, record.timestamp]
            values = [receipt.sns_id, receipt.message_id, record.value, *place]
            self._cursor.execute(WAIT, values)

    def refold(self) -> Refold:
        return Refold(self._cursor, self._positions)

    def lock(self, ids: set[UUID]) -> tuple[set[UUID], dict[UUID, UUID]]:
        # The mark is read before the rows. Otherwise a row that is saved between the two statements
        # would count as missing although its mark is passed.
        topics = INBOX.names()
        self._cursor.execute(PASSED, [[*topics]])
        passed = self._cursor.rowcount == len(topics)
        missing = self._rows.take(ids)
        winners = keys.winners(self._cursor, missing) if missing else {}
        if winners:
            gone = self._rows.take(set(winners.values()))
            missing -= {id for id, winner in winners.items() if winner not in gone}
        if missing and not passed:
            raise Unavailable(f"{len(missing)} rows may still be in the inbox")
        return missing, winners

    @property
    def locked(self) -> Collection[UUID]:
        return self._rows.locked

    def put_aside(self, reports: Sequence[tuple[Record, Report]]) -> None:
        self._rows.put_aside(reports)

    def fold_aside(self) -> list[Blocker] | None:
        """Fold what is set aside, as `RowLocks.fold_all` says."""
        return self._rows.fold_all()

    def save(self, notifications: Sequence[Notification]) -> Sequence[Notification]:
        self._store.make_days({ids.day_of(each.id) for each in notifications})
        with classified_errors(), self._connection.begin_nested():
            self._cursor.execute(INCOMING)
            self._cursor.copy_expert(COPY, copy_lines(map(VALUES, notifications)))
            refused = judge(self._cursor, [each for each in notifications if each.idempotency_key])
            self._cursor.execute(SAVE)
            saved = self._cursor.rowcount
            if refused:
                self._cursor.execute(CONFLICT, [array(refused)])
            elif saved == len(notifications):
                return notifications
            self._cursor.execute(WAITING, [array(each.id for each in notifications)])
            waiting = {id for (id,) in self._cursor}
        return [each for each in notifications if each.id in waiting]

    def settle(
        self, rounds: Sequence[Sequence[Report]], opened: Sequence[Started], closed: Sequence[UUID]
    ) -> None:
        with classified_errors(), self._connection.begin_nested():
            entries = [
                (call.call, each.id, each.attempt) for call in opened for each in call.attempts
            ]
            if entries:
                calls, notifications, attempts = zip(*entries, strict=True)
                self._cursor.execute(OPEN, [array(calls), array(notifications), [*attempts]])
            for reports in rounds:
                self._move(ENCODE(reports).decode(), (each.id for each in reports))
            if closed:
                self._cursor.execute(CLOSE, [array(closed)])

    def _move(self, reports: str, ids: Iterable[UUID]) -> None:
        values = {"reports": reports, "ids": array(ids), "lease": self._store.lease}
        self._cursor.execute(MOVE, values)

    def trial(self) -> AbstractContextManager[None]:
        return trial(self._connection)

    def restart_grace(self) -> None:
        self._cursor.execute(RESTART_GRACE)
