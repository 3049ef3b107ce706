"""A topic for figures that is gone stops no work; any other topic that is gone is named."""

from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import NewTopic

from courant import metrics
from courant.errors import Unavailable
from courant.kafka import clients, producer
from courant.kafka.clients import Cluster
from courant.kafka.producer import KafkaProducer
from courant.records import Outgoing
from courant.topics import DELIVERY, RECEIPTS, STATS
from courant_local.kafka import Broker
from support.waiting import wait


@pytest.fixture
def cluster(broker: Broker) -> Cluster:
    """A cluster that has `delivery` and no other topic."""
    cluster = Cluster(broker.bootstrap, topic_prefix=f"t{uuid4().hex[:8]}.")
    with clients.admin(cluster, "test") as admin:
        new = NewTopic(cluster.topic(DELIVERY.name), 1, 1)
        for future in admin.client.create_topics([new]).values():
            future.result()
    return cluster


def dropped() -> float:
    return sum(
        sample.value
        for metric in metrics.SPARED.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


def write(cluster: Cluster, *topics: str) -> None:
    writer = KafkaProducer(cluster, "test")
    for topic in topics:
        writer.produce(Outgoing(topic, b"key", b"value"))
    writer.flush()


def test_figures_that_kafka_does_not_take_are_counted_and_stop_nothing(cluster: Cluster) -> None:
    before = dropped()
    write(cluster, STATS.name, DELIVERY.name)
    wait(lambda: polled(cluster) > before, "the figure is dropped")


def polled(cluster: Cluster) -> float:
    producer.sparing(cluster).poll(0)
    return dropped()


def test_figures_are_written_if_kafka_takes_them(broker: Broker) -> None:
    cluster, before = Cluster(broker.bootstrap), dropped()
    write(cluster, STATS.name)
    assert producer.sparing(cluster).flush(60) == 0
    assert dropped() == before


def test_a_topic_that_does_not_acknowledge_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "FLUSH_SECONDS", 1.0)
    with pytest.raises(Unavailable, match=r"topics: receipts$"):
        write(cluster, RECEIPTS.name, DELIVERY.name)


def test_waiting_for_figures_is_noticed(cluster: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(producer, "SPARABLE", frozenset())
    monkeypatch.setattr(producer, "FLUSH_SECONDS", 1.0)
    with pytest.raises(Unavailable, match=r"topics: stats$"):
        write(cluster, STATS.name, DELIVERY.name)
