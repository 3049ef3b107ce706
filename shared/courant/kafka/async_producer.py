"""Ingest's producer: each `put` returns once every in-sync replica has the record.

It works on one event loop, which polls librdkafka for acknowledgements itself: every millisecond
while any record waits for one. A thread that polled and woke the loop cost 20 µs more per request.
"""

import asyncio
import logging
import time
from collections import deque
from functools import partial
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Librdkafka

from courant.errors import Unavailable
from courant.kafka.clients import Cluster, common
from courant.records import Outgoing
from courant.runbooks import Runbook
from courant.topics import USAGE

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 1.8  # the promise to clients is an answer within 2 s
BUSY_SECONDS = 0.001  # between two polls while records wait for an acknowledgement
IDLE_SECONDS = 0.1  # between two polls while no record waits
RECORD_SECONDS_MAX = 5.0  # then librdkafka drops the record; its client got a 503 long before
LINGER_MS = 2
QUEUE_MESSAGES_MAX = 50_000
QUEUE_KBYTES_MAX = 65_536
REQUEST_BYTES_MAX = 4 * 1024 * 1024
QUIET_SECONDS = 1.0  # how long an acknowledgement proves that the broker acknowledges
CLOSE_SECONDS = 5.0
LOG_LEVEL_INFO = 6


class Inbox(Protocol):
    """The log that accepted notifications, uploads and receipts are written to."""

    async def put(self, outgoing: Outgoing) -> None:
        """Return once the record is in every in-sync replica.

        Raises Unavailable. The record may have been written nevertheless.
        """


class AsyncProducer:
    """An `Inbox` on a Kafka cluster."""

    def __init__(
        self, cluster: Cluster, name: str, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._cluster = cluster
        self._deadline_seconds = deadline_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_poll: asyncio.TimerHandle | None = None
        self._unacknowledged: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._acknowledged_at = 0.0
        self.fatal = False
        self._producer = Librdkafka(
            {
                **common(cluster, name),
                # Ingest itself logs nothing while a broker is away, it only answers 503.
                "log_level": LOG_LEVEL_INFO,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": LINGER_MS,
                "message.timeout.ms": int(RECORD_SECONDS_MAX * 1000),
                "request.timeout.ms": int(RECORD_SECONDS_MAX * 1000),
                "message.max.bytes": REQUEST_BYTES_MAX,
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
                "error_cb": self._error,
            }
        )

    def start(self) -> None:
        """Start polling, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._poll()

    async def put(self, outgoing: Outgoing) -> None:
        assert self._loop
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._producer.produce(
                self._cluster.topic(outgoing.topic),
                key=outgoing.key,
                value=outgoing.value,
                headers=list(outgoing.headers) or None,
                on_delivery=partial(self._delivered, future),
            )
        except BufferError:
            raise Unavailable("Kafka: too many records wait for an acknowledgement") from None
        except KafkaException as raised:
            raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
        if not self._unacknowledged and self._next_poll:
            self._next_poll.cancel()
            self._next_poll = self._loop.call_later(BUSY_SECONDS, self._poll)
        self._unacknowledged.append((time.monotonic() + self._deadline_seconds, future))
        await future

    async def acknowledges(self) -> bool:
        """Return whether the broker acknowledges now. If idle, write a tombstone to find out."""
        if time.monotonic() - self._acknowledged_at < QUIET_SECONDS:
            return True
        try:
            await self.put(Outgoing(USAGE.name, b"probe", b""))
        except Unavailable:
            return False
        return True

    def close(self) -> None:
        """Wait up to `CLOSE_SECONDS` for the last acknowledgements, then stop."""
        if self._next_poll:
            self._next_poll.cancel()
        self._producer.flush(CLOSE_SECONDS)

    def _poll(self) -> None:
        assert self._loop
        self._producer.poll(0)  # calls _delivered before it returns
        now, waiting = time.monotonic(), self._unacknowledged
        while waiting and (waiting[0][1].done() or waiting[0][0] < now):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable("Kafka: no acknowledgement in time"))
        delay = BUSY_SECONDS if waiting else IDLE_SECONDS
        self._next_poll = self._loop.call_later(delay, self._poll)

    def _delivered(
        self, future: asyncio.Future[None], error: KafkaError | None, _: Message
    ) -> None:
        if error is None:
            self._acknowledged_at = time.monotonic()
        if future.done():  # its deadline has passed, or its client has disconnected
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(Unavailable(f"Kafka: {error.name()}"))

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            fields = {"reason": error.name(), "runbook": Runbook.PRODUCER_FAILED}
            log.error("producer cannot go on", extra=fields)
            self.fatal = True
