"""Reports on rows that somebody else has locked: set aside, so that they stop no partition.

They are kept in the order of their records and folded before any later report on their rows. Until
then a mark that lies behind them is not passed (recovery's FOLDED), so nobody decides without them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from courant.contracts import ENCODE
from courant.errors import Refused, TooSlow, Unfit
from courant.lifecycle import Report
from courant.postgres import blockers
from courant.postgres.blockers import Blocker
from courant.postgres.database import array, classified_errors
from courant.postgres.folding import Cursor
from courant.records import Record

THERE = "SELECT id FROM notifications WHERE id = ANY(%s::uuid[])"
LOCK = f"{THERE} ORDER BY id FOR UPDATE"
# Other stages lock rows for milliseconds. A session that locks one for longer is not ours.
LOCK_SOON = f"SET LOCAL lock_timeout = '2s'; {LOCK}"
LOCK_FREE = f"{LOCK} SKIP LOCKED"
PUT_ASIDE = """
    INSERT INTO aside (id, topic_id, partition, "offset", report) VALUES (%s, %s, %s, %s, %s)"""
IS_ASIDE = "SELECT FROM aside WHERE id = ANY(%s::uuid[]) LIMIT 1"
ASIDE = "SELECT number, id, report FROM aside WHERE id = ANY(%s::uuid[]) ORDER BY number"
ALL_ASIDE = "SELECT DISTINCT id FROM aside LIMIT 1000"
DROP_ASIDE = "DELETE FROM aside WHERE number = ANY(%s)"
FORGET_ASIDE = "DELETE FROM aside WHERE id = ANY(%s::uuid[])"
LASTS = "SELECT coalesce(min(at) < now() - interval '5 s', false) FROM aside"
NO_TEXTS = {"reason": None, "response": None, "message_id": None}


class RowLocks:
    """The locks of one transaction on rows. `locked` has the rows that it could not lock."""

    def __init__(
        self,
        connection: Connection,
        cursor: Cursor,
        move: Callable[[str, Iterable[UUID]], None],
    ) -> None:
        self._connection, self._cursor, self._move = connection, cursor, move
        self.locked: set[UUID] = set()

    def take(self, ids: set[UUID]) -> set[UUID]:
        """Lock the rows, and fold what is set aside for them; return the ids without a row."""
        self._cursor.execute(IS_ASIDE, [array(ids)])
        if self._cursor.rowcount:
            return self._take_up(ids)
        try:
            with classified_errors(), self._connection.begin_nested():
                return self._lock(LOCK_SOON, ids)
        except TooSlow:
            return self._lock(LOCK_FREE, ids)

    def put_aside(self, reports: Sequence[tuple[Record, Report]]) -> None:
        """Keep reports on locked rows."""
        for record, report in reports:
            place = [record.partition.topic_id, record.partition.number, record.offset]
            self._cursor.execute(PUT_ASIDE, [report.id, *place, ENCODE(report).decode()])

    def fold_all(self) -> list[Blocker] | None:
        """Fold all that is set aside for rows that are free now.

        Returns the sessions that keep the others locked; None unless some are locked for seconds.
        """
        self._cursor.execute(ALL_ASIDE)
        ids = {id for (id,) in self._cursor}
        if not ids:
            return None
        self._take_up(ids)
        self._cursor.execute(LASTS)
        [(lasts,)] = self._cursor.fetchall()
        return blockers.of_rows(self._cursor, self.locked) if lasts else None

    def _lock(self, sql: str, ids: set[UUID]) -> set[UUID]:
        self._cursor.execute(sql, [array(ids)])
        absent = ids - {id for (id,) in self._cursor}
        if absent:
            self._cursor.execute(THERE, [array(absent)])
            self.locked |= {id for (id,) in self._cursor}
        return absent - self.locked

    def _take_up(self, ids: set[UUID]) -> set[UUID]:
        missing = self._lock(LOCK_FREE, ids)
        self._cursor.execute(FORGET_ASIDE, [array(missing)])  # their day was dropped
        self._cursor.execute(ASIDE, [array(ids - self.locked)])
        found = self._cursor.fetchall()
        for _, id, report in found:
            self._fold(id, json.loads(report))
        self._cursor.execute(DROP_ASIDE, [[number for number, *_ in found]])
        return missing

    def _fold(self, id: UUID, report: dict[str, Any]) -> None:
        """Fold one report, without its texts if Postgres cannot store them."""
        try:
            self._fold_one(id, report)
        except Refused as refusal:
            try:
                self._fold_one(id, {**report, **NO_TEXTS})
            except Refused:
                raise Unfit(f"{refusal}: refused without its texts as well") from None

    def _fold_one(self, id: UUID, report: dict[str, Any]) -> None:
        with classified_errors(), self._connection.begin_nested():
            self._move(json.dumps([report]), [id])
