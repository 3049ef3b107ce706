"""Asks the cluster for partitions, for the start and end of their logs, and for commits."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from courant.errors import Unavailable
from courant.kafka.clients import ANSWER_SECONDS, Admin, Cluster, common, raises_unavailable
from courant.topics import Partition, Positions


def topic_ids(admin: Admin, names: Iterable[str]) -> dict[str, UUID]:
    """Return the ids of topics by name; raises Unavailable."""
    return {name: _uuid(topic.topic_id) for name, topic in _described(admin, names).items()}


class CommittedOffsets:
    """Reads the committed offsets of a group without joining it.

    It is a consumer and not an admin client, because that crashes the process when the broker
    answers that it does not coordinate the group. Each broker that has just restarted answers so.
    (Seen with librdkafka 2.16; its pull request 5318.)
    """

    def __init__(self, cluster: Cluster, name: str, group: str) -> None:
        self._cluster = cluster
        self._consumer = Consumer(
            {
                **common(cluster, name),
                "group.id": cluster.group(group),
                "enable.auto.commit": False,
            }
        )

    def of(self, partitions: Sequence[Partition]) -> Positions:
        """Return the committed offsets of these partitions, if any; raises Unavailable."""
        with raises_unavailable():
            return committed(self._consumer, self._cluster, partitions)

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._consumer.close()


def ends(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Return the end of each partition's log; raises Unavailable."""
    return _offsets(admin, partitions, OffsetSpec.latest())


def starts(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Return the start of each partition's log; raises Unavailable."""
    return _offsets(admin, partitions, OffsetSpec.earliest())


def partitions(admin: Admin, topics: Iterable[str]) -> list[Partition]:
    """Return the partitions that these topics have now; raises Unavailable."""
    return [
        Partition(name, _uuid(topic.topic_id), partition.id)
        for name, topic in _described(admin, topics).items()
        for partition in topic.partitions
    ]


def by_topic_and_number(
    cluster: Cluster, partitions: Iterable[Partition]
) -> dict[tuple[str, int], Partition]:
    """Return the partitions by topic name and number, as the client identifies them."""
    return {
        (cluster.topic(partition.topic), partition.number): partition for partition in partitions
    }


def committed(
    consumer: Consumer, cluster: Cluster, partitions: Iterable[Partition]
) -> dict[Partition, int]:
    """Return the committed offset of those partitions that have one; raises KafkaException."""
    by_name = by_topic_and_number(cluster, partitions)
    positions = {}
    for answer in consumer.committed([TopicPartition(*name) for name in by_name], ANSWER_SECONDS):
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset >= 0:
            positions[by_name[answer.topic, answer.partition]] = answer.offset
    return positions


def log_starts(
    consumer: Consumer, cluster: Cluster, partitions: Iterable[Partition]
) -> dict[Partition, int]:
    """Return the start of each partition's log; raises KafkaException, Unavailable.

    One request asks for all partitions, because `get_watermark_offsets` asks for one at a time. For
    24 partitions that took 1.25 s, one request takes 0.2 s (measured: one broker, two busy cores).
    """
    by_name = by_topic_and_number(cluster, partitions)
    asked = [TopicPartition(*name, confluent_kafka.OFFSET_BEGINNING) for name in by_name]
    positions = {}
    for answer in consumer.offsets_for_times(asked, ANSWER_SECONDS) if asked else ():
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset < 0:
            raise Unavailable("Kafka: a leader does not answer")
        positions[by_name[answer.topic, answer.partition]] = answer.offset
    return positions


def _offsets(
    admin: Admin, partitions: Sequence[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    by_name = by_topic_and_number(admin.cluster, partitions)
    if not by_name:
        return {}
    asked = {TopicPartition(*name): spec for name in by_name}
    positions = {}
    with raises_unavailable():
        futures = admin.client.list_offsets(asked, request_timeout=ANSWER_SECONDS)
        for partition, future in futures.items():
            name = partition.topic, partition.partition
            positions[by_name[name]] = future.result().offset
    if min(positions.values()) < 0:
        # If a leader does not answer, librdkafka returns -1001 and no error (seen with 2.16). As
        # the end of a log it would mean that every record was read.
        raise Unavailable("Kafka: a leader does not answer")
    return positions


def _described(admin: Admin, names: Iterable[str]) -> dict[str, Any]:
    asked = confluent_kafka.TopicCollection([admin.cluster.topic(name) for name in names])
    with raises_unavailable():
        futures = admin.client.describe_topics(asked, request_timeout=ANSWER_SECONDS)
        return {admin.cluster.name_of(name): done.result() for name, done in futures.items()}


def _uuid(id: Any) -> UUID:
    high = id.get_most_significant_bits() & (2**64 - 1)
    low = id.get_least_significant_bits() & (2**64 - 1)
    return UUID(int=high << 64 | low)
