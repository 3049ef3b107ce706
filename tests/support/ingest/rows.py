"""Postgres in memory, as ingest reads notifications there. Tests say when the log is folded."""

import asyncio
from dataclasses import dataclass, field, replace
from uuid import UUID

from courant import clock, ids
from courant.contracts import Command, Notification, Seal, decode_job
from courant.errors import Unavailable
from courant.idempotency import KEPT, Holder, judge
from courant.testing.jobs import holder_of
from courant.topics import INBOX, JOBS, family
from ingest.accept.idempotency import FirstNotification
from ingest.read.pages import PAGE_ROWS, ListFilter, Page
from ingest.read.store import Missing
from ingest.read.views import NotificationRow
from support.ingest.jobs import FakeJobs, stored_job
from support.ingest.log import FakeLog

OTHER_BODY = "Idempotency-Key has been used with another body in the last 48 hours"
LOOKS = 20  # how often a read looks for its row before it gives up


@dataclass
class FakeRows:
    """Rows and Idempotency-Keys of the log's records that are folded.

    `tests/twins/test_ingest_rows.py` runs the same tests on them and on PostgreSQL, behind
    `ingest.read.store.Reader`. Jobs go to `jobs`, as they do in one database.
    """

    log: FakeLog
    works: bool = True
    folded: int = 0  # the number of records that are folded
    rows: dict[UUID, tuple[Notification, NotificationRow]] = field(default_factory=dict)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    # What an Idempotency-Key of a service stands for, and stood for before.
    keys: dict[tuple[UUID, bytes], list[Holder]] = field(default_factory=dict)
    # From ids that lost to the winner: both came with one Idempotency-Key.
    aliases: dict[UUID, UUID] = field(default_factory=dict)
    looks: int = 0  # reads of one notification that found none

    def save(self) -> None:
        """Fold the rest of the log, as the saver and job-runner do."""
        for record in self.log.records[self.folded :]:
            if family(record.topic) == INBOX.name:
                self._save(Notification.decode(record.value))
            elif record.topic == JOBS.name and isinstance(job := decode_job(record.value), Seal):
                self._seal(job)
        self.folded = len(self.log.records)

    def _save(self, each: Notification) -> None:
        losers = self._judge(each, each.id in self.rows)
        if each.id in self.aliases:
            return
        self.rows.setdefault(each.id, (each, row(each)))
        for id in losers:
            refused = {"state": "technical-failure", "reason": OTHER_BODY, "response": OTHER_BODY}
            self.move(id, **refused)

    def _seal(self, each: Seal) -> None:
        losers = self._judge(each, each.job_id in self.jobs.jobs)
        if each.job_id in self.aliases:
            self.jobs.aliases[each.job_id] = self.aliases[each.job_id]
            return
        if each.job_id not in self.jobs.jobs:
            self.jobs.put(stored_job(each), each.service_id)
        for id in losers:
            cancelled = {"command": Command.CANCELLED, "commanded_at": each.accepted_at}
            self.jobs.jobs[id] = replace(self.jobs.jobs[id], **cancelled)  # type: ignore[arg-type]
        if each.idempotency_key:
            newest = self.keys[each.service_id, each.idempotency_key][-1]
            self.jobs.keys[each.service_id, each.idempotency_key] = newest.id, newest.body

    def _judge(self, each: Notification | Seal, stored: bool) -> list[UUID]:
        """Let the key stand for one of its requests. Returns ids that came with another body.

        Nothing is sent here, so that whatever is stored can give way.
        """
        new = holder_of(each)
        if each.idempotency_key is None or stored or new.id in self.aliases:
            return []
        key = each.service_id, each.idempotency_key
        self.keys[key], losers = judge(self.keys.get(key, []), new, {*self.rows, *self.jobs.jobs})
        for loser in losers:
            if loser.same_body:
                self.aliases[loser.id] = loser.winner
                self.rows.pop(loser.id, None)
                self.jobs.jobs.pop(loser.id, None)
        return [each.id for each in losers if not each.same_body]

    def _ask(self) -> None:
        if not self.works:
            raise Unavailable("Postgres: away")

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        holders = self.keys.get((service_id, key_hash), []) if self.works else []
        if not holders or holders[-1].id not in self.rows or is_over(holders[-1]):
            return None
        stored, _ = self.rows[holders[-1].id]
        return FirstNotification(stored.id, holders[-1].body, stored.template_version)

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        if ids.time_of(id) is None:
            return Missing(certain=True)
        for _ in range(LOOKS):
            self._ask()
            each, found = self.rows.get(self.aliases.get(id, id), (None, None))
            if each and found and found.sealed and each.service_id == service_id:
                return found
            self.looks += 1
            if not self._behind():
                return Missing(certain=True)
            await asyncio.sleep(0)
        return Missing(certain=False)

    def _behind(self) -> bool:
        """Return whether some accepted notification is not folded yet."""
        left = self.log.records[self.folded :]
        return any(family(each.topic) == INBOX.name for each in left)

    async def page(self, chosen: ListFilter) -> Page:
        self._ask()
        older_than = None
        if chosen.older_than:
            id = self.aliases.get(chosen.older_than, chosen.older_than)
            if id not in self.rows or self.rows[id][0].service_id != chosen.service_id:
                return Page([], None)
            older_than = age(self.rows[id][1])
        found = [
            row
            for each, row in self.rows.values()
            if row.sealed
            and each.service_id == chosen.service_id
            and each.key_type is chosen.key_type
            and (chosen.states is None or (row.state, row.channel) in chosen.states)
            and (chosen.channels is None or row.channel in chosen.channels)
            and (chosen.reference is None or row.reference == chosen.reference)
            and (older_than is None or age(row) < older_than)
            and (chosen.with_jobs or each.job_id is None)
        ]
        rows = sorted(found, key=age, reverse=True)[:PAGE_ROWS]
        return Page(rows, rows[-1].id if rows else None)

    async def version(self) -> str | None:
        return "0001" if self.works else None

    def move(self, id: UUID, **changed: object) -> None:
        """Change a row, as the saver does."""
        notification, row = self.rows[id]
        self.rows[id] = notification, replace(row, **changed)  # type: ignore[arg-type]


def is_over(holder: Holder) -> bool:
    """Return whether the key may be used for another request by now."""
    return clock.now() - holder.at >= KEPT


def age(row: NotificationRow) -> tuple[object, UUID]:
    """Return the order of a list. Ids do not sort by time if a key made them."""
    return row.accepted_at, row.id


def row(each: Notification) -> NotificationRow:
    """Return a notification's row as it is saved."""
    return NotificationRow(
        id=each.id,
        template_id=each.template_id,
        template_version=each.template_version,
        channel=each.channel,
        reference=each.reference,
        sealed=each.sealed,
        accepted_at=each.accepted_at,
        scheduled_for=each.scheduled_for,
        state="created",
        state_at=each.accepted_at,
        sent_at=None,
        reason=None,
        response=None,
    )
