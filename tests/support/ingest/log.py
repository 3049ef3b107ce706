"""Kafka in memory as ingest writes to it: it acknowledges, refuses, or says nothing in time."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from courant.contracts import JobRecord, Notification, Seal, decode_job
from courant.errors import Unavailable
from courant.kafka import async_producer
from courant.records import Outgoing
from courant.topics import USAGE, family

TOO_LATE = "Kafka: no acknowledgement in time"


@dataclass
class FakeLog:
    """A log that appends records in the order of their puts, whether or not a put still waits.

    So an unacknowledged record may be in the log all the same. `tests/twins/test_ingest_log.py`
    runs the same tests on this log and on a broker.
    """

    works: bool = True  # else nothing is acknowledged, and every deadline has passed
    fails_after: int | None = None  # records that it appends; then as if `works` were false
    deadline_seconds: float | None = None  # of a put; None: it waits as long as it takes
    waiting: list[Outgoing] = field(default_factory=list)  # every record that a put handed over
    records: list[Outgoing] = field(default_factory=list)  # those of them that are in the log
    _released: asyncio.Event | None = None  # until then the log stands still

    async def put(self, outgoing: Outgoing) -> None:
        if len(outgoing.key) + len(outgoing.value) > async_producer.REQUEST_BYTES_MAX:
            raise Unavailable("Kafka: MSG_SIZE_TOO_LARGE")
        if len(self.waiting) - len(self.records) >= async_producer.QUEUE_MESSAGES_MAX:
            raise Unavailable("Kafka: too much waits for its acknowledgement")
        self.waiting.append(outgoing)
        number = len(self.waiting)
        self._append()
        await asyncio.sleep(0)
        if self._released:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), self.deadline_seconds)
        if len(self.records) < number:
            raise Unavailable(TOO_LATE)

    async def acknowledges(self) -> bool:
        """Return whether the log acknowledges a record now."""
        try:
            await self.put(Outgoing(USAGE.name, b"probe", b""))
        except Unavailable:
            return False
        return True

    def stand_still(self) -> None:
        """Append and acknowledge nothing until `go_on`; puts wait for that or for their deadline.

        Belongs to the event loop of those puts.
        """
        self._released = asyncio.Event()

    def go_on(self) -> None:
        """Append what was handed over meanwhile, and acknowledge it to those that still wait."""
        self.works, self.fails_after = True, None
        released, self._released = self._released, None
        self._append()
        if released:
            released.set()

    def _append(self) -> None:
        if self.works and not self._released:
            self.records += self.waiting[len(self.records) : self.fails_after]

    def notifications(self) -> list[Notification]:
        """Return the accepted notifications that are in the log."""
        return [
            Notification.decode(each.value)
            for each in self.records
            if family(each.topic) == "inbox"
        ]

    def jobs(self) -> list[JobRecord]:
        """Return the records about jobs that are in the log."""
        return [decode_job(each.value) for each in self.records if each.topic == "jobs"]

    def seals(self) -> list[Seal]:
        """Return the seals that are in the log."""
        return [each for each in self.jobs() if isinstance(each, Seal)]
