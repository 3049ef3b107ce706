"""The same tests of ingest's log on the fake in memory and on a real broker."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from courant.errors import Unavailable
from courant.kafka import async_producer, clients
from courant.kafka.async_producer import AsyncProducer, Inbox
from courant.kafka.clients import Cluster, headers_of
from courant.records import Outgoing
from courant_local.kafka import Broker
from support.ingest.log import TOO_LATE, FakeLog

WAIT_SECONDS = 60.0
SOON_SECONDS = 0.1
PARTITIONS = 3
KEY = uuid.UUID(int=5).bytes


class Log(Inbox, Protocol):
    """What ingest needs: to write, and to know whether it could."""

    async def acknowledges(self) -> bool: ...


Story = Callable[[Log], Awaitable[None]]


class Twin(Protocol):
    """A log whose broker can stand still, with a topic that nobody else uses."""

    topic: str

    def run(self, story: Story, deadline_seconds: float = WAIT_SECONDS) -> None: ...
    def stand_still(self) -> None: ...
    def go_on(self) -> None: ...
    def records(self, wanted: int) -> list[Outgoing]: ...


class FakeTwin:
    def __init__(self) -> None:
        self.log, self.topic = FakeLog(), "twin"
        self.deadline_seconds = WAIT_SECONDS

    def run(self, story: Story, deadline_seconds: float = WAIT_SECONDS) -> None:
        self.deadline_seconds = deadline_seconds
        asyncio.run(story(self.log))

    def stand_still(self) -> None:
        self.log.stand_still(deadline_seconds=self.deadline_seconds)

    def go_on(self) -> None:
        self.log.go_on()

    def records(self, wanted: int) -> list[Outgoing]:
        found = [each for each in self.log.records if each.topic == self.topic]
        assert len(found) >= wanted
        return found


class KafkaTwin:
    def __init__(self, broker: Broker) -> None:
        self.broker, self.topic = broker, f"twin-{uuid.uuid4().hex[:8]}"
        self.cluster = Cluster(broker.bootstrap)
        with clients.admin(self.cluster, "twin") as admin:
            for future in admin.client.create_topics(
                [NewTopic(self.cluster.topic(self.topic), PARTITIONS, 1)]
            ).values():
                future.result()

    def run(self, story: Story, deadline_seconds: float = WAIT_SECONDS) -> None:
        async def started() -> None:
            log = AsyncProducer(self.cluster, "twin", deadline_seconds)
            log.start()
            try:
                await story(log)
            finally:
                self.go_on()
                log.close()

        asyncio.run(started())

    def stand_still(self) -> None:
        self.broker.freeze()

    def go_on(self) -> None:
        self.broker.thaw()

    def records(self, wanted: int) -> list[Outgoing]:
        """Read until so many records have come."""
        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "twin"})
        consumer.assign(
            [
                TopicPartition(self.cluster.topic(self.topic), number, 0)
                for number in range(PARTITIONS)
            ]
        )
        found: list[Outgoing] = []
        until = time.monotonic() + WAIT_SECONDS
        while len(found) < wanted:
            assert time.monotonic() < until
            if (message := consumer.poll(1)) and not message.error():
                key, value = message.key(), message.value()
                assert isinstance(key, bytes)
                assert isinstance(value, bytes)
                found.append(Outgoing(self.topic, key, value, tuple(headers_of(message))))
        consumer.close()
        return found


@pytest.fixture(params=["fake", "kafka"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    # However slow the machine is, a record outlives the time that the broker stands still.
    monkeypatch.setattr(async_producer, "RECORD_SECONDS_MAX", WAIT_SECONDS)
    if request.param == "fake":
        yield FakeTwin()
        return
    real = KafkaTwin(request.getfixturevalue("broker"))
    yield real
    real.go_on()


def record(twin: Twin, value: bytes) -> Outgoing:
    return Outgoing(twin.topic, KEY, value)


def values(twin: Twin, wanted: int) -> list[bytes]:
    return [each.value for each in twin.records(wanted)]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_record_is_in_the_log_as_it_was_given(twin: Twin) -> None:
    given = Outgoing(twin.topic, uuid.uuid4().bytes, b"\x00value\xff", (("h", b"1"), ("h", b"2")))
    twin.run(lambda log: log.put(given))
    assert twin.records(1) == [given]


def test_a_put_returns_only_when_its_record_is_acknowledged(twin: Twin) -> None:
    async def story(log: Log) -> None:
        await log.put(record(twin, b"a"))
        twin.stand_still()
        put = asyncio.ensure_future(log.put(record(twin, b"b")))
        await asyncio.sleep(SOON_SECONDS)
        assert not put.done()
        twin.go_on()
        await put

    twin.run(story)
    assert values(twin, 2) == [b"a", b"b"]


def test_a_record_that_is_acknowledged_too_late_is_in_the_log_all_the_same(twin: Twin) -> None:
    async def story(log: Log) -> None:
        async def written() -> bool:
            try:
                await log.put(record(twin, b"b"))
            except Unavailable:
                return False
            return True

        twin.stand_still()
        with pytest.raises(Unavailable, match=TOO_LATE):
            await log.put(record(twin, b"a"))
        twin.go_on()
        await until(written)

    twin.run(story, deadline_seconds=SOON_SECONDS)
    assert values(twin, 2)[:2] == [b"a", b"b"]


def test_records_of_a_key_are_in_the_log_in_the_order_of_their_puts(twin: Twin) -> None:
    async def story(log: Log) -> None:
        def put(number: int) -> asyncio.Future[None]:
            return asyncio.ensure_future(log.put(record(twin, b"%d" % number)))

        twin.stand_still()
        puts = [put(number) for number in range(20)]
        await asyncio.sleep(0)
        twin.go_on()
        puts += [put(number) for number in range(20, 40)]
        await asyncio.gather(*puts)

    twin.run(story)
    assert values(twin, 40) == [b"%d" % number for number in range(40)]


def test_a_record_whose_put_is_cancelled_is_in_the_log_all_the_same(twin: Twin) -> None:
    async def story(log: Log) -> None:
        twin.stand_still()
        put = asyncio.ensure_future(log.put(record(twin, b"a")))
        await asyncio.sleep(0)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        twin.go_on()
        await log.put(record(twin, b"b"))

    twin.run(story)
    assert values(twin, 2) == [b"a", b"b"]


def test_a_record_that_is_too_large_is_refused_and_the_next_is_not(twin: Twin) -> None:
    async def story(log: Log) -> None:
        with pytest.raises(Unavailable, match="MSG_SIZE_TOO_LARGE"):
            await log.put(record(twin, bytes(async_producer.REQUEST_BYTES_MAX)))
        await log.put(record(twin, b"b"))

    twin.run(story)
    assert values(twin, 1) == [b"b"]


def test_a_record_is_refused_while_too_many_wait(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_producer, "QUEUE_MESSAGES_MAX", 3)

    async def story(log: Log) -> None:
        twin.stand_still()
        puts = [asyncio.ensure_future(log.put(record(twin, b"%d" % n))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many records wait"):
            await log.put(record(twin, b"refused"))
        twin.go_on()
        await asyncio.gather(*puts)
        await log.put(record(twin, b"3"))

    twin.run(story)
    assert values(twin, 4) == [b"0", b"1", b"2", b"3"]


def test_it_reports_whether_it_acknowledges_now(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_producer, "QUIET_SECONDS", 0.0)

    async def story(log: Log) -> None:
        await until(log.acknowledges)
        twin.stand_still()
        assert not await log.acknowledges()
        twin.go_on()
        await until(log.acknowledges)

    twin.run(story, deadline_seconds=SOON_SECONDS)
