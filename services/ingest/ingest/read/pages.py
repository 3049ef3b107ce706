"""Reads a service's list page by page, however few of its notifications the filter allows.

One statement looks at a bounded number of rows, and a page is made of as many statements as it
needs within a few seconds. So a list of a million notifications of which none is asked for occupies
a reader only for moments at a time, and never more than half of the readers.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection, text

from courant.contracts import KeyType
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.postgres.tables import WITH_CONTENT
from courant.topics import Channel
from ingest.read.views import NotificationRow

T = TypeVar("T")

PAGE_ROWS = 250
LOOKS = 5_000
"""The most rows that one statement looks at."""
FULL_SECONDS = 1.0
"""How long a page that has some rows is filled up. After that it is a short page."""
EMPTY_SECONDS = 5.0
"""How long a page's first row is searched for. After that the client has to try again."""
WAITS_MAX = 20  # lists of one service that wait for their turn
PLACES_MAX = 1_000
PLACE_SECONDS = 60.0
"""How long it is remembered up to where a search found nothing, so that trying again goes on."""

COLUMNS = """id, template_id, template_version, channel, reference, sealed, accepted_at,
    scheduled_for, state, state_at, sent_at, reason, response"""
WINNER = "coalesce((SELECT winner FROM aliases WHERE id = :id), :id)"
# Ids do not sort by time: an id made from an Idempotency-Key holds only the day.
OLDER_THAN = f"""(n.accepted_at, n.id) < ((
        SELECT o.accepted_at FROM notifications o
        WHERE o.id = {WINNER} AND o.service_id = :service_id), {WINNER})"""  # noqa: S608  # ours
NEWEST_FIRST = "ORDER BY n.accepted_at DESC, n.id DESC"
LOOK = f"""
    SELECT {COLUMNS} FROM (
        SELECT * FROM notifications n WHERE {{within}} {NEWEST_FIRST} LIMIT {LOOKS}) AS n
    WHERE {{which}} {NEWEST_FIRST} LIMIT :rows"""  # noqa: S608  # ours
LAST_LOOKED_AT = f"""
    SELECT n.accepted_at, n.id FROM notifications n WHERE {{within}}
    {NEWEST_FIRST} OFFSET {LOOKS - 1} LIMIT 1"""  # noqa: S608  # ours


@dataclass(frozen=True, slots=True)
class ListFilter:
    """The rows that a list shows. None does not filter."""

    service_id: UUID
    key_type: KeyType
    states: frozenset[tuple[State, Channel]] | None = None
    channels: frozenset[str] | None = None
    reference: str | None = None
    older_than: UUID | None = None
    with_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a list, newest first. `last` is the id after which the next page begins.

    It is None if the page is empty. A page may be short although older rows follow.
    """

    rows: Sequence[NotificationRow]
    last: UUID | None


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a service's list, up to which all newer ones were looked at."""

    accepted_at: datetime
    id: UUID


class Ask(Protocol):
    """Runs a question in a reader's thread and returns its answer; raises Unavailable."""

    def __call__(self, question: Callable[[Connection], T]) -> Coroutine[Any, Any, T]:
        """Return what the question finds."""


@dataclass(slots=True)
class Lists:
    """Reads lists. One service has at most `share` readers at once, and its other lists wait."""

    ask: Ask
    share: int
    turns: dict[UUID, asyncio.Semaphore] = field(default_factory=dict)
    asked: Counter[UUID] = field(default_factory=Counter)
    places: dict[ListFilter, tuple[Place, float]] = field(default_factory=dict)

    async def page(self, chosen: ListFilter) -> Page:
        """Return a page of a list. Raises Unavailable."""
        async with self._turn(chosen.service_id):
            return await self._search(chosen)

    @asynccontextmanager
    async def _turn(self, service_id: UUID) -> AsyncIterator[None]:
        if self.asked[service_id] >= self.share + WAITS_MAX:
            raise Unavailable("too many lists of this service wait")
        self.asked[service_id] += 1
        try:
            async with self.turns.setdefault(service_id, asyncio.Semaphore(self.share)):
                yield
        finally:
            self.asked -= Counter([service_id])  # subtraction drops services that ask for none
            if service_id not in self.asked:
                self.turns.pop(service_id, None)

    async def _search(self, chosen: ListFilter) -> Page:
        began = monotonic()
        found: list[NotificationRow] = []
        place, until = self.places.pop(chosen, (None, 0.0))
        place = place if began < until else None
        while True:
            rows, place = await self.ask(partial(look, chosen, place, PAGE_ROWS - len(found)))
            found += rows
            seconds = monotonic() - began
            if place is None or len(found) == PAGE_ROWS:
                return Page(found, found[-1].id if found else None)
            if found and seconds > FULL_SECONDS:
                return Page(found, place.id)
            if seconds > EMPTY_SECONDS:
                self._remember(chosen, place, began + seconds + PLACE_SECONDS)
                raise Unavailable("the list is long, and nothing that is asked for was found yet")

    def _remember(self, chosen: ListFilter, place: Place, until: float) -> None:
        if len(self.places) >= PLACES_MAX:
            del self.places[next(iter(self.places))]
        self.places[chosen] = place, until


def look(
    chosen: ListFilter, after: Place | None, limit: int, connection: Connection
) -> tuple[list[NotificationRow], Place | None]:
    """Look at the next LOOKS rows after a place; return those that the list shows.

    Also returns the place of the last row that was looked at, or None if that was the oldest.
    """
    within, which, values = conditions(chosen, after)
    sql = text(LOOK.format(within=within, which=which))
    rows = [as_row(row) for row in connection.execute(sql, {**values, "rows": limit})]
    if len(rows) == limit:
        return rows, Place(rows[-1].accepted_at, rows[-1].id)
    last = connection.execute(text(LAST_LOOKED_AT.format(within=within)), values).first()
    return rows, Place(last.accepted_at, last.id) if last else None


def conditions(chosen: ListFilter, after: Place | None = None) -> tuple[str, str, dict[str, Any]]:
    """Return the SQL condition on the rows to look at, that on those to show, and their values."""
    within = ["n.service_id = :service_id", f"n.{WITH_CONTENT}"]
    which = ["n.key_type = :key_type"]
    values: dict[str, Any] = {"service_id": chosen.service_id, "key_type": chosen.key_type}
    if after is not None:
        within.append("(n.accepted_at, n.id) < (:after_time, :after_id)")
        values |= {"after_time": after.accepted_at, "after_id": after.id}
    elif chosen.older_than is not None:
        within.append(OLDER_THAN)
        values["id"] = chosen.older_than
    if chosen.reference is not None:  # has an index of its own
        within.append("n.reference = :reference")
        values["reference"] = chosen.reference
    if chosen.states is not None:
        pairs = ", ".join(f"('{state}', '{channel}')" for state, channel in sorted(chosen.states))
        which.append(f"(n.state, n.channel) IN ({pairs})" if pairs else "false")
    if chosen.channels is not None:
        which.append("n.channel = ANY(:channels)")
        values["channels"] = sorted(chosen.channels)
    if not chosen.with_jobs:
        which.append("n.job_id IS NULL")
    return " AND ".join(within), " AND ".join(which), values


def as_row(row: Any) -> NotificationRow:
    """Build a NotificationRow from the columns that the driver returned."""
    columns = row._asdict()
    return NotificationRow(**{**columns, "sealed": bytes(columns["sealed"] or b"")})
