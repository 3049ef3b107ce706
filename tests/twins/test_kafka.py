"""The same tests on the simulated Kafka and on a real broker, which must behave alike."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic

from courant.consume import Consumer, Producer
from courant.errors import Fenced, Unavailable
from courant.kafka import clients
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.records import Outgoing, Record
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.world import World
from courant.topics import Folded
from courant_local.kafka import Broker
from support.mistakes import replace
from support.waiting import wait

POLLS_IN_VAIN = 20  # of a quarter second each; one usually returns the records, if any come
KEY = bytes(15) + b"k"


class Cluster(Protocol):
    """A topic of three partitions for one test, on a broker that can be frozen."""

    topic: str

    def join(self) -> Consumer: ...
    def producer(self) -> Producer: ...
    def stand_still(self) -> None: ...
    def go_on(self) -> None: ...
    def recreate(self) -> None: ...
    def later(self) -> None: ...
    def leave(self, consumer: Any) -> None: ...


class FakeCluster:
    def __init__(self) -> None:
        self.world, self.topic = World(), "inbox.email.normal"

    def join(self) -> Consumer:
        return FakeConsumer(self.world.kafka, "group", [self.topic])

    def producer(self) -> Producer:
        return FakeProducer(self.world.kafka)

    def stand_still(self) -> None:
        self.world.kafka.refusals = 1

    def go_on(self) -> None:
        self.world.kafka.refusals = 0

    def recreate(self) -> None:
        self.world.kafka.recreate(self.topic)

    def later(self) -> None:
        self.world.clock += 1

    def leave(self, consumer: Any) -> None:
        consumer.leave()


class RealCluster:
    def __init__(self, broker: Broker) -> None:
        self.broker, self.cluster = broker, clients.Cluster(broker.bootstrap)
        self.topic = f"twin-{uuid.uuid4().hex[:8]}"
        self.members: list[KafkaConsumer] = []
        self.create()

    def create(self) -> None:
        with clients.admin(self.cluster, "twin") as admin:
            new = NewTopic(self.cluster.topic(self.topic), 3, 1)
            for future in admin.client.create_topics([new]).values():
                future.result()

    def recreate(self) -> None:
        with clients.admin(self.cluster, "twin") as admin:
            for future in admin.client.delete_topics([self.cluster.topic(self.topic)]).values():
                future.result()
        wait(self.is_created, "the former topic is gone")

    def is_created(self) -> bool:
        try:
            self.create()
        except KafkaException:  # the broker still knows the former topic
            return False
        return True

    def later(self) -> None:
        time.sleep(0.01)

    def join(self) -> Consumer:
        self.members.append(KafkaConsumer(self.cluster, self.topic, [self.topic]))
        return self.members[-1]

    def producer(self) -> Producer:
        return KafkaProducer(self.cluster, "twin")

    def stand_still(self) -> None:
        self.broker.freeze()

    def go_on(self) -> None:
        self.broker.thaw()

    def leave(self, consumer: Any) -> None:
        consumer.close()


@pytest.fixture(params=["fake", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "fake":
        yield FakeCluster()
        return
    real = RealCluster(request.getfixturevalue("broker"))
    yield real
    real.go_on()
    for member in real.members:
        member.close()


def write(cluster: Cluster, *values: bytes, key: bytes | None = None) -> None:
    producer = cluster.producer()
    for value in values:
        producer.produce(Outgoing(cluster.topic, key or uuid.uuid4().bytes, value, (("h", b"1"),)))
    producer.flush()


def read(consumer: Consumer, wanted: int, limit: int = 500) -> list[Record]:
    """Poll until `wanted` records have been returned, and return them."""
    found: list[Record] = []

    def came() -> bool:
        with suppress(Unavailable):  # the broker may be about to come back
            found.extend(consumer.poll(limit))
        return len(found) >= wanted

    wait(lambda: len(found) >= wanted or came(), f"{wanted} records")
    return found


def values(records: Sequence[Record]) -> list[bytes]:
    return sorted(each.value for each in records)


def test_a_record_is_read_as_it_was_written(cluster: Cluster) -> None:
    write(cluster, b"", b"two", key=uuid.UUID(int=5).bytes)
    first, second = read(cluster.join(), 2)
    assert (first.key, first.value, first.headers) == (uuid.UUID(int=5).bytes, b"", (("h", b"1"),))
    assert second.partition == first.partition
    assert first.partition.topic == cluster.topic
    assert (first.offset, second.offset) == (0, 1)


def test_a_poll_returns_at_most_its_limit(cluster: Cluster) -> None:
    write(cluster, *(b"%d" % n for n in range(20)))
    consumer = cluster.join()
    read(consumer, 1, limit=1)
    assert all(len(consumer.poll(3)) <= 3 for _ in range(4))


def test_only_records_that_are_not_committed_are_read_again(cluster: Cluster) -> None:
    write(cluster, *(b"%d" % n for n in range(9)))
    first = cluster.join()
    records = read(first, 9)
    done = [each for each in records if each.partition.number < 2]
    first.commit(done)
    cluster.leave(first)
    left = [each for each in records if each.partition.number == 2]
    assert values(read(cluster.join(), len(left))) == values(left)


def test_a_consumer_that_seeks_back_reads_the_records_again(cluster: Cluster) -> None:
    write(cluster, b"a", b"b", key=KEY)
    consumer = cluster.join()
    [a, b] = read(consumer, 2)
    consumer.seek({a.partition: a.offset})
    assert consumer.positions()[a.partition] == a.offset
    assert read(consumer, 2) == [a, b]
    assert consumer.positions()[a.partition] == b.offset + 1


def test_a_position_is_known_before_anything_was_read(cluster: Cluster) -> None:
    write(cluster, b"a", b"b", key=KEY)
    first = cluster.join()
    records = read(first, 2)
    first.commit(records)
    cluster.leave(first)
    second = cluster.join()
    second.poll(1)
    wait(lambda: second.poll(1) or len(second.positions()) == 3)
    assert second.positions()[records[0].partition] == 2
    assert sorted(second.positions().values()) == [0, 0, 2]


def test_a_position_can_be_committed_backwards(cluster: Cluster) -> None:
    write(cluster, b"a", b"b", key=KEY)
    first = cluster.join()
    records = read(first, 2)
    first.commit(records)
    first.commit_at({records[0].partition: 0})
    cluster.leave(first)
    assert values(read(cluster.join(), 2)) == [b"a", b"b"]


def test_a_resting_consumer_keeps_its_partitions_and_position(cluster: Cluster) -> None:
    write(cluster, b"a", key=KEY)
    consumer = cluster.join()
    records = read(consumer, 1)
    write(cluster, b"b", key=KEY)
    consumer.rest(timedelta(seconds=1))
    records += read(consumer, 1)
    assert values(records) == [b"a", b"b"]
    consumer.commit(records)


def test_a_partition_that_is_revoked_during_a_rest_and_assigned_again_is_read(
    cluster: Cluster,
) -> None:
    assert len(read(*lost_and_given_again(cluster))) == 30


def lost_and_given_again(cluster: Cluster) -> tuple[Consumer, int]:
    """Return a consumer that holds all partitions again, and how many records it has to read."""
    write(cluster, *(b"%d" % n for n in range(30)))
    first = cluster.join()
    first.commit(read(first, 30))
    second = cluster.join()

    def lost_in_a_rest() -> bool:
        second.poll(1)
        first.rest(timedelta(seconds=0.1))
        return len(first.positions()) < 3 and bool(second.positions())

    wait(lost_in_a_rest)
    cluster.leave(second)
    wait(lambda: (first.poll(1), len(first.positions()) == 3)[-1])
    write(cluster, *(b"%d" % n for n in range(30)))
    return first, 30


# The mistake: a consumer that does not resume partitions on assignment, real and simulated.
NO_RESUME: dict[type, tuple[Any, str, str, str]] = {
    RealCluster: (
        KafkaConsumer,
        "_assigned",
        "(consumer.pause if self._resting else consumer.resume)(partitions)",
        "if self._resting: consumer.pause(partitions)",
    ),
    FakeCluster: (FakeConsumer, "_assign", "self._paused -= self._positions.keys()", "pass"),
}


def test_the_twins_detect_a_consumer_that_does_not_resume(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *NO_RESUME[type(cluster)])
    consumer, wanted = lost_and_given_again(cluster)
    # A number of empty polls, not a time, proves that no record comes, because a slow machine makes
    # fewer polls in the same time.
    found = [len(consumer.poll(500)) for _ in range(POLLS_IN_VAIN)]
    assert sum(found) < wanted
    consumer.rest(timedelta(seconds=0.1))  # at its end it resumes all partitions that it holds
    assert sum(found) + len(read(consumer, wanted - sum(found))) == wanted


def test_a_consumer_cannot_commit_a_partition_that_it_lost(cluster: Cluster) -> None:
    write(cluster, *(b"%d" % n for n in range(30)))
    first = cluster.join()
    records = read(first, 30)
    second = cluster.join()
    wait(lambda: (first.rest(timedelta(seconds=0.1)), second.poll(1), second.positions())[-1])
    taken = second.positions().keys()
    with pytest.raises(Fenced):
        first.commit([each for each in records if each.partition in taken])


def test_a_failed_flush_keeps_the_queued_records(cluster: Cluster) -> None:
    producer = cluster.producer()
    producer.produce(Outgoing(cluster.topic, KEY, b"warm"))
    producer.flush()
    cluster.stand_still()
    producer.produce(Outgoing(cluster.topic, KEY, b"a"))
    with pytest.raises(Unavailable):
        producer.flush()
    cluster.go_on()
    wait(lambda: is_flushed(producer))
    records = read(cluster.join(), 2)
    assert values(records) == [b"a", b"warm"]


def test_the_first_record_that_is_newer_than_a_time_is_found_and_otherwise_the_logs_end(
    cluster: Cluster,
) -> None:
    write(cluster, b"a", b"b", key=KEY)
    cluster.later()
    write(cluster, b"c", key=KEY)
    consumer = cluster.join()
    records = read(consumer, 3)
    [_, b, c] = records
    part = c.partition
    [empty, _] = [each for each in consumer.positions() if each != part]

    def first_after(at: datetime | None) -> int:
        return consumer.firsts_after({part: Folded(9, at)})[part]

    assert first_after(b.timestamp) == 2
    assert first_after(b.timestamp - timedelta(hours=1)) == 0
    assert first_after(c.timestamp) == 3
    assert first_after(None) == 3
    both = {part: Folded(3, b.timestamp), empty: Folded(0, c.timestamp)}
    assert consumer.firsts_after(both) == {part: 2, empty: 0}


@pytest.mark.parametrize("before", [1, 9])
def test_a_topic_that_is_recreated_under_a_running_consumer_is_read_from_its_start_by_its_new_id(
    before: int, cluster: Cluster
) -> None:
    write(cluster, *(b"%d" % n for n in range(before)), key=KEY)
    consumer = cluster.join()
    records = read(consumer, before)
    consumer.commit(records)
    cluster.recreate()
    wait(lambda: is_written(cluster, b"new", b"newer", b"newest"))
    found: dict[int, bytes] = {}

    def read_by_the_new_id() -> bool:
        # Until the group has assigned the new topic, its records come by the former id.
        came: Sequence[Record] = ()
        with suppress(Unavailable):  # the topic may be gone at this moment
            came = consumer.poll(500)
        of_new = [each for each in came if each.partition.topic_id != records[0].partition.topic_id]
        found.update({each.offset: each.value for each in of_new})
        return len(found) >= 3

    wait(read_by_the_new_id, "the new topic is read")
    assert list(found.items())[:3] == [(0, b"new"), (1, b"newer"), (2, b"newest")]
    assert all(each.topic_id != records[0].partition.topic_id for each in consumer.positions())


def is_written(cluster: Cluster, *values: bytes) -> bool:
    """Write the values; return false while the producer still knows the former topic."""
    try:
        write(cluster, *values, key=KEY)
    except Unavailable:
        return False
    return True


def is_flushed(producer: Producer) -> bool:
    try:
        producer.flush()
    except Unavailable:
        return False
    return True
