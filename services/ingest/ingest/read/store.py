"""Reads notifications from Postgres, in a few threads of its own.

A client may ask for a notification right after its 201, a moment before the row is stored. So a
read waits for the row. It reports "not found" for certain only when all notifications accepted
before the request are stored.
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
from courant.errors import Unavailable
from courant.postgres import database
from courant.postgres.tables import WITH_CONTENT
from courant.topics import INBOX, Family
from ingest.accept.idempotency import FirstNotification
from ingest.read.pages import COLUMNS, WINNER, ListFilter, Lists, Page, as_row
from ingest.read.views import NotificationRow

log = logging.getLogger(__name__)
T = TypeVar("T")

STATEMENT_SECONDS = 2
ANSWER_MARGIN_SECONDS = 5
"""How much longer than a statement's limit an answer may take, if the server hangs."""
KEY_LOOKUP_SECONDS = 0.05
"""How long a request with an Idempotency-Key waits for Postgres."""
ROW_WAIT_SECONDS = 2.0
"""How long a GET waits for its row to be stored."""
LOOK_INTERVAL_SECONDS = 0.1
WAITS_MAX = 20  # GETs of one service that wait for their rows at the same time
QUEUED_PER_READER_MAX = 16  # questions that wait for each thread
CLOCK_SKEW_MAX = timedelta(minutes=15)
"""How far the clock of the ingest that made an id may differ from Postgres's clock."""

# After its retention a notification is emptied, and to clients it is missing.
NOTIFICATION = text(f"""
    SELECT {COLUMNS} FROM notifications
    WHERE service_id = :service_id AND id = {WINNER} AND {WITH_CONTENT}""")  # noqa: S608  # ours
NOW = text("SELECT now()")
# The oldest mark after a time decides for its topic: until it has passed, no later one has.
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
    WHERE i.service_id = :service_id AND i.key_hash = :key_hash
        AND i.accepted_at > now() - interval '48 h'""")


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no row. If `certain`, there will never be one; otherwise it may still be stored."""

    certain: bool


class Reader:
    """Queries Postgres over a bounded number of connections, with a bounded queue of questions."""

    def __init__(self, url: str, readers: int, statement_seconds: int = STATEMENT_SECONDS) -> None:
        self._engine = database.engine(
            url,
            "ingest",
            readers,
            statement_seconds,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
        )
        self._answer_seconds = statement_seconds + ANSWER_MARGIN_SECONDS
        self._threads = ThreadPoolExecutor(readers, "reader")
        self._queued = 0
        self._queued_max = readers * QUEUED_PER_READER_MAX
        self._waits: Counter[UUID] = Counter()
        self._lists = Lists(self.ask, (readers + 1) // 2)

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        """Return the first notification with a key. None may also mean no answer in time."""

        values = {"service_id": service_id, "key_hash": key_hash}

        def find(connection: Connection) -> FirstNotification | None:
            row = connection.execute(FIRST_NOTIFICATION, values).first()
            if row is None:
                return None
            return FirstNotification(row.id, bytes(row.body_hash), row.template_version)

        return await self.ask_briefly(find)

    async def ask_briefly(self, question: Callable[[Connection], T | None]) -> T | None:
        """Return what a question finds, or None if no answer comes within KEY_LOOKUP_SECONDS."""
        try:
            return await asyncio.wait_for(self.ask(question), KEY_LOOKUP_SECONDS)
        except (Unavailable, TimeoutError):
            # The request is accepted with the id that its key derives. The service that stores the
            # records keeps the first with a key, and makes each other an alias.
            return None

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        """Return a service's row. Waits a moment for one that may be on its way.

        Raises Unavailable.
        """
        return await self.find_or_wait(service_id, id, INBOX, lambda c: _row(c, service_id, id))

    async def find_or_wait(
        self, service_id: UUID, id: UUID, family: Family, find: Callable[[Connection], T | None]
    ) -> T | Missing:
        """Return what `find` finds for an id from an answer. Waits a moment for it to be stored.

        `family` has the topics that it is stored from. Raises Unavailable.
        """
        made_at = ids.time_of(id)
        if made_at is None:
            return Missing(certain=True)
        value, began = await self.ask(lambda c: (find(c), c.execute(NOW).scalar_one()))
        if value:
            return value
        # Everything answered before `began` is stored once a mark after `began` has passed. For an
        # old id an earlier mark is enough. A derived id holds only its day, so it counts as new.
        mark_time = began if id.version == 8 else min(began, made_at + CLOCK_SKEW_MAX)
        if self._waits[service_id] >= WAITS_MAX:
            return Missing(certain=False)
        self._waits[service_id] += 1
        try:
            return await self._wait(family, mark_time, find)
        finally:
            self._waits[service_id] -= 1
            if not self._waits[service_id]:
                del self._waits[service_id]

    async def _wait(
        self, family: Family, mark_time: datetime, find: Callable[[Connection], T | None]
    ) -> T | Missing:
        values = {"family": family.name, "time": mark_time}

        def look(connection: Connection) -> T | Missing:
            # The marks are read first. Otherwise a row that is stored between the two queries would
            # be reported missing for certain.
            passed = connection.execute(MARKS_PASSED, values).scalar_one()
            return find(connection) or Missing(certain=passed == len(family.names()))

        until = asyncio.get_running_loop().time() + ROW_WAIT_SECONDS
        while True:
            result = await self.ask(look)
            late = asyncio.get_running_loop().time() + LOOK_INTERVAL_SECONDS > until
            if not isinstance(result, Missing) or result.certain or late:
                return result
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)

    async def page(self, list_filter: ListFilter) -> Page:
        """Return a page of rows, newest first. Raises Unavailable."""
        return await self._lists.page(list_filter)

    async def version(self) -> str | None:
        """Return the database schema's version, or None if Postgres does not answer."""

        def ask(connection: Connection) -> str:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())

        try:
            return await self.ask(ask)
        except Unavailable:
            return None

    def close(self) -> None:
        """Stop the threads and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Return what a question finds. It runs in a thread of the reader. Raises Unavailable."""
        if self._queued >= self._queued_max:
            raise Unavailable("Postgres: too many questions wait")
        self._queued += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, question)
        # Not when the caller stops waiting, because the thread works on until then.
        future.add_done_callback(self._on_answer)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._answer_seconds)
        except TimeoutError:
            raise Unavailable("Postgres: no answer") from None

    def _on_answer(self, future: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if not future.cancelled():
            future.exception()  # asyncio would log it if the caller has stopped waiting

    def _run(self, question: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return question(connection)
        except (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError) as error:
            raise Unavailable(f"Postgres: {type(error).__name__}") from None


def _row(connection: Connection, service_id: UUID, id: UUID) -> NotificationRow | None:
    row = connection.execute(NOTIFICATION, {"service_id": service_id, "id": id}).first()
    return as_row(row) if row else None
