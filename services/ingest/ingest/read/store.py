"""Reading notifications from Postgres, in a few threads of its own.

A 201 comes a moment before its row. So whoever asks first waits; and "not found" is said only when
it is proved that everything that was accepted before is folded.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy import exc as sqlalchemy_errors

from courant import ids
from courant.contracts import KeyType
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.postgres import database
from courant.topics import INBOX, Channel, Family
from ingest.accept.idempotency import FirstNotification
from ingest.read.views import NotificationRow

log = logging.getLogger(__name__)
T = TypeVar("T")

STATEMENT_SECONDS = 2
ANSWER_MARGIN_SECONDS = 5  # beyond a statement's time: a server that stands still does not keep it
KEY_LOOKUP_SECONDS = 0.05  # that a request with an Idempotency-Key waits for Postgres
ROW_WAIT_SECONDS = 2.0  # that a GET waits for its row
LOOK_INTERVAL_SECONDS = 0.1
WAITS_MAX = 20  # GETs of one service that wait at once
QUEUED_PER_READER_MAX = 16  # questions that wait for each thread
PAGE_ROWS = 250
# Which ingest made an id is not known: its clock may be off by so much from Postgres's.
CLOCK_SKEW_MAX = timedelta(minutes=15)

COLUMNS = """id, template_id, template_version, channel, reference, sealed, accepted_at,
    scheduled_for, state, state_at, sent_at, reason, response"""
WINNER = "coalesce((SELECT winner FROM aliases WHERE id = :id), :id)"
NOTIFICATION = text(f"""
    SELECT {COLUMNS} FROM notifications WHERE service_id = :service_id AND id = {WINNER}""")  # noqa: S608  # ours
# An id tells the day of its notification, and no more where an Idempotency-Key made it.
OLDER_THAN = f"""(n.accepted_at, n.id) < ((
        SELECT o.accepted_at FROM notifications o
        WHERE o.id = {WINNER} AND o.service_id = :service_id), {WINNER})"""  # noqa: S608  # ours
PAGE_SQL = f"""
    SELECT {COLUMNS} FROM notifications n WHERE {{where}}
    ORDER BY n.accepted_at DESC, n.id DESC LIMIT {PAGE_ROWS}"""  # noqa: S608  # ours
NOW = text("SELECT now()")
# The oldest mark after a time decides for its topic: if that is not passed, no later one is.
MARKS_PASSED = text("""
    WITH mark AS (
        SELECT DISTINCT ON (topic) topic, topic_id, ends FROM marks
        WHERE family = :family AND at > :time ORDER BY topic, at)
    SELECT count(*) FROM mark WHERE NOT EXISTS (
        SELECT FROM unnest(mark.ends) WITH ORDINALITY AS e (stop, number)
        LEFT JOIN positions p ON p.topic_id = mark.topic_id AND p.partition = e.number - 1
        WHERE coalesce(p.next, 0) < e.stop)""")
FIRST_NOTIFICATION = text("""
    SELECT n.id, i.body_hash, n.template_version
    FROM idempotency i JOIN notifications n ON n.id = i.id
    WHERE i.service_id = :service_id AND i.key_hash = :key_hash""")


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which rows a list shows; None asks for all."""

    service_id: UUID
    key_type: KeyType
    states: frozenset[tuple[State, Channel]] | None = None
    channels: frozenset[str] | None = None
    reference: str | None = None
    older_than: UUID | None = None
    with_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """No row; `certain` when there will be none, else it may still come."""

    certain: bool


class Reader:
    """Asks Postgres, with a bounded number of connections and of questions that wait."""

    def __init__(self, url: str, readers: int, statement_seconds: int = STATEMENT_SECONDS) -> None:
        self._engine = database.engine(
            url,
            "ingest",
            readers,
            statement_seconds,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
        )
        self._patience_seconds = statement_seconds + ANSWER_MARGIN_SECONDS
        self._threads = ThreadPoolExecutor(readers, "reader")
        self._queued = 0
        self._queued_max = readers * QUEUED_PER_READER_MAX
        self._waits: Counter[UUID] = Counter()

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        """Give what came first under an Idempotency-Key; None also without an answer in time."""

        def ask(connection: Connection) -> FirstNotification | None:
            found = connection.execute(FIRST_NOTIFICATION, asked).first()
            return (
                FirstNotification(found.id, bytes(found.body_hash), found.template_version)
                if found
                else None
            )

        asked = {"service_id": service_id, "key_hash": key_hash}
        return await self.ask_briefly(ask)

    async def ask_briefly(self, question: Callable[[Connection], T | None]) -> T | None:
        """Return what a question finds, or None if no answer comes within FIRST_SECONDS."""
        try:
            return await asyncio.wait_for(self.ask(question), KEY_LOOKUP_SECONDS)
        except (Unavailable, TimeoutError):
            return None  # who folds the log will tell them apart

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        """Give a row; for one that may be on its way, wait a moment. Raises Unavailable."""
        return await self.find_or_wait(service_id, id, INBOX, lambda c: _row(c, service_id, id))

    async def find_or_wait(
        self, service_id: UUID, id: UUID, family: Family, find: Callable[[Connection], T | None]
    ) -> T | Missing:
        """Give what is found by an id that a service was answered; wait a moment for it.

        `family` is that of the topics which it comes from. Raises Unavailable.
        """
        made_at = ids.time_of(id)
        if made_at is None:
            return Missing(certain=True)
        found, began = await self.ask(lambda c: (find(c), c.execute(NOW).scalar_one()))
        if found:
            return found
        # All that was answered before `began` is folded once a later mark is passed. For an old id
        # an earlier mark does; a derived one carries its day only, and counts as young.
        wanted = began if id.version == 8 else min(began, made_at + CLOCK_SKEW_MAX)
        if self._waits[service_id] >= WAITS_MAX:
            return Missing(certain=False)
        self._waits[service_id] += 1
        try:
            return await self._wait(family, wanted, find)
        finally:
            self._waits[service_id] -= 1
            if not self._waits[service_id]:
                del self._waits[service_id]

    async def _wait(
        self, family: Family, wanted: datetime, find: Callable[[Connection], T | None]
    ) -> T | Missing:
        asked = {"family": family.name, "time": wanted}

        def look(connection: Connection) -> T | Missing:
            # In this order: a row that is folded in between is found by the next look, not missed.
            passed = connection.execute(MARKS_PASSED, asked).scalar_one()
            return find(connection) or Missing(certain=passed == len(family.names()))

        until = asyncio.get_running_loop().time() + ROW_WAIT_SECONDS
        while True:
            found = await self.ask(look)
            late = asyncio.get_running_loop().time() + LOOK_INTERVAL_SECONDS > until
            if not isinstance(found, Missing) or found.certain or late:
                return found
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)

    async def page(self, chosen: ListFilter) -> list[NotificationRow]:
        """Give a page of rows, newest first; raises Unavailable."""
        where, values = conditions(chosen)
        sql = text(PAGE_SQL.format(where=where))
        return await self.ask(lambda c: [_as_row(each) for each in c.execute(sql, values)])

    async def version(self) -> str | None:
        """Give the schema's version; None when Postgres does not tell."""

        def ask(connection: Connection) -> str:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())

        try:
            return await self.ask(ask)
        except Unavailable:
            return None

    def close(self) -> None:
        """Let go of Postgres."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Give what a question finds, asked in a thread of the reader's; raises Unavailable."""
        if self._queued >= self._queued_max:
            raise Unavailable("Postgres: too many questions wait")
        self._queued += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, question)
        # Also when nobody waits any more: the thread is at work until then.
        future.add_done_callback(self._answered)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._patience_seconds)
        except TimeoutError:
            raise Unavailable("Postgres: no answer") from None

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if not future.cancelled():
            future.exception()  # seen, though its asker may have gone

    def _answer(self, question: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return question(connection)
        except (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError) as error:
            raise Unavailable(f"Postgres: {type(error).__name__}") from None


def conditions(chosen: ListFilter) -> tuple[str, dict[str, Any]]:
    """Write which rows `n` are chosen: an SQL condition, and its values."""
    parts = ["n.service_id = :service_id", "n.key_type = :key_type"]
    values: dict[str, Any] = {"service_id": chosen.service_id, "key_type": chosen.key_type}
    if chosen.states is not None:
        pairs = ", ".join(f"('{state}', '{channel}')" for state, channel in sorted(chosen.states))
        parts.append(f"(n.state, n.channel) IN ({pairs})" if pairs else "false")
    if chosen.channels is not None:
        parts.append("n.channel = ANY(:channels)")
        values["channels"] = sorted(chosen.channels)
    if chosen.reference is not None:
        parts.append("n.reference = :reference")
        values["reference"] = chosen.reference
    if chosen.older_than is not None:
        parts.append(OLDER_THAN)
        values["id"] = chosen.older_than
    if not chosen.with_jobs:
        parts.append("n.job_id IS NULL")
    return " AND ".join(parts), values


def _row(connection: Connection, service_id: UUID, id: UUID) -> NotificationRow | None:
    found = connection.execute(NOTIFICATION, {"service_id": service_id, "id": id}).first()
    return _as_row(found) if found else None


def _as_row(found: Any) -> NotificationRow:
    values = found._asdict()
    return NotificationRow(**{**values, "sealed": bytes(values["sealed"] or b"")})
