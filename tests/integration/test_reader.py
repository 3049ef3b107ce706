"""Reading whole topics from a real broker."""

import time
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from courant import ids
from courant.errors import Unavailable
from courant.kafka import clients, offsets, reader
from courant.kafka.clients import Cluster
from courant.kafka.producer import KafkaProducer
from courant.kafka.reader import TopicReader, read_to_end
from courant.records import Outgoing
from courant.topics import DELIVERY, DIRECTORY
from courant_cli import trace
from courant_cli.installation import Installation
from courant_local.kafka import Broker

COUNT = 2_500  # more than one read takes


def write(cluster: Cluster, keys: Iterable[bytes]) -> None:
    producer = KafkaProducer(cluster, "test")
    for key in keys:
        producer.produce(Outgoing(DELIVERY.name, key, b"value"))
    producer.flush()


def partitions(cluster: Cluster) -> list[tuple[str, int]]:
    with clients.admin(cluster, "test") as client:
        found = offsets.partitions(client, [DELIVERY.name, DIRECTORY.name])
    return [(each.topic, each.number) for each in found]


def test_every_record_is_read_to_the_end_of_each_partition_and_then_later_ones(
    broker: Broker,
) -> None:
    cluster = Cluster(broker.bootstrap)
    keys = [uuid4().bytes for _ in range(COUNT)]
    write(cluster, keys)
    with closing(TopicReader(cluster, "test", partitions(cluster))) as topic_reader:
        found = [message.key() for message in read_to_end(topic_reader)]
        assert len(found) == len(set(found))
        assert set(keys) <= set(found)
        later = uuid4().bytes
        write(cluster, [later])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if later in [message.key() for message in topic_reader.read(1)]:
                return
    pytest.fail("the reader did not read on")


def test_a_reader_from_a_time_passes_over_earlier_records(broker: Broker) -> None:
    cluster = Cluster(broker.bootstrap)
    earlier, later = uuid4().bytes, uuid4().bytes
    write(cluster, [earlier])
    time.sleep(0.01)  # a record's time is in milliseconds
    since = datetime.now(UTC)
    write(cluster, [later])
    with closing(TopicReader(cluster, "test", partitions(cluster), since)) as topic_reader:
        assert [message.key() for message in read_to_end(topic_reader)] == [later]
    future = datetime.now(UTC) + timedelta(hours=1)
    with closing(TopicReader(cluster, "test", partitions(cluster), future)) as topic_reader:
        assert list(read_to_end(topic_reader)) == []


def test_a_trace_finds_the_records_that_name_the_notification(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("COURANT_HOME", str(tmp_path))
    id, other = ids.new(datetime.now(UTC)), ids.new(datetime.now(UTC))
    since = ids.time_of(id)
    assert since
    write(Cluster(broker.bootstrap), [other.bytes, id.bytes])
    [(_, topic, _, size)] = trace.search(Installation(), id, since, (DELIVERY.name,))
    assert (topic, size) == (DELIVERY.name, len(b"value"))


def test_a_broker_that_falls_silent_is_reported_and_not_taken_for_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "SILENT_SECONDS", 0.5)
    nowhere = Cluster("127.0.0.1:9")
    with (
        closing(TopicReader(nowhere, "test", [(DELIVERY.name, 0)])) as topic_reader,
        pytest.raises(Unavailable),
    ):
        list(read_to_end(topic_reader))
