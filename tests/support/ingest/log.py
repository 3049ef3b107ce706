"""Kafka in memory as ingest writes to it: it acknowledges, refuses, or says nothing in time."""

import asyncio
from collections import deque
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

    waiting: list[Outgoing] = field(default_factory=list)  # every record that a put handed over
    records: list[Outgoing] = field(default_factory=list)  # those of them that are in the log
    _underway: deque[asyncio.Future[None]] = field(default_factory=deque)  # puts of the others
    _records_max: int | None = None  # that it appends
    _deadline_seconds: float | None = None

    async def put(self, outgoing: Outgoing) -> None:
        if len(outgoing.key) + len(outgoing.value) > async_producer.REQUEST_BYTES_MAX:
            raise Unavailable("Kafka: MSG_SIZE_TOO_LARGE")
        if len(self._underway) >= async_producer.QUEUE_MESSAGES_MAX:
            raise Unavailable("Kafka: too many records wait for an acknowledgement")
        appended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(outgoing)
        self._underway.append(appended)
        self._append()
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(appended, self._deadline_seconds)
        except TimeoutError:
            raise Unavailable(TOO_LATE) from None

    async def acknowledges(self) -> bool:
        """Return whether the log acknowledges a record now."""
        try:
            await self.put(Outgoing(USAGE.name, b"probe", b""))
        except Unavailable:
            return False
        return True

    def stand_still(self, after: int = 0, deadline_seconds: float | None = None) -> None:
        """Append no more than `after` records in all, until `go_on`; meanwhile puts wait.

        Without a deadline they wait as long as it takes; with one of 0 it has passed already.
        """
        self._records_max, self._deadline_seconds = after, deadline_seconds

    def go_on(self) -> None:
        """Append what was handed over meanwhile, and acknowledge it to those that still wait."""
        self._records_max = self._deadline_seconds = None
        self._append()

    def _append(self) -> None:
        for outgoing in self.waiting[len(self.records) : self._records_max]:
            self.records.append(outgoing)
            appended = self._underway.popleft()
            if not appended.done():  # its deadline has passed, or its caller has left
                appended.set_result(None)

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
