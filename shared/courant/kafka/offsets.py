"""Where partitions begin and end, how far a group has committed, and which partitions there are."""

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
    """Ask for the ids of topics; raises Unavailable."""
    return {name: _uuid(topic.topic_id) for name, topic in _described(admin, names).items()}


class CommittedOffsets:
    """Tells how far a group has committed, without joining it.

    Not asked of an admin client: when the broker answers that it does not coordinate the group, as
    each does that has just come back, that brings the process down (librdkafka 2.16, seen; its
    pull request 5318).
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
        """Ask for those of these partitions that have a commit; raises Unavailable."""
        with raises_unavailable():
            return committed(self._consumer, self._cluster, partitions)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


def ends(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Ask where each partition's log ends; raises Unavailable."""
    return _offsets(admin, partitions, OffsetSpec.latest())


def starts(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Ask where each partition's log begins; raises Unavailable."""
    return _offsets(admin, partitions, OffsetSpec.earliest())


def partitions(admin: Admin, topics: Iterable[str]) -> list[Partition]:
    """Ask which partitions these topics have now; raises Unavailable."""
    return [
        Partition(name, _uuid(topic.topic_id), each.id)
        for name, topic in _described(admin, topics).items()
        for each in topic.partitions
    ]


def by_spot(cluster: Cluster, partitions: Iterable[Partition]) -> dict[tuple[str, int], Partition]:
    """Return the partitions by the names and numbers that the client knows them by."""
    return {(cluster.topic(each.topic), each.number): each for each in partitions}


def committed(
    consumer: Consumer, cluster: Cluster, wanted: Iterable[Partition]
) -> dict[Partition, int]:
    """Return the committed offset of those partitions that have one; raises KafkaException."""
    wanted_by_spot = by_spot(cluster, wanted)
    found = {}
    for spot in consumer.committed(
        [TopicPartition(*name) for name in wanted_by_spot], ANSWER_SECONDS
    ):
        if spot.error is not None:
            raise KafkaException(spot.error)
        if spot.offset >= 0:
            found[wanted_by_spot[spot.topic, spot.partition]] = spot.offset
    return found


def begun(
    consumer: Consumer, cluster: Cluster, wanted: Iterable[Partition]
) -> dict[Partition, int]:
    """Return where each partition's log begins; raises KafkaException, Unavailable.

    Asks once for all of them. `get_watermark_offsets` asks for one partition at a time: 24 took
    1.25 s so, and take 0.2 s together (measured on one broker, two busy cores).
    """
    wanted_by_spot = by_spot(cluster, wanted)
    asked = [TopicPartition(*name, confluent_kafka.OFFSET_BEGINNING) for name in wanted_by_spot]
    found = {}
    for spot in consumer.offsets_for_times(asked, ANSWER_SECONDS) if asked else ():
        if spot.error is not None:
            raise KafkaException(spot.error)
        if spot.offset < 0:
            raise Unavailable("Kafka: a leader does not answer")
        found[wanted_by_spot[spot.topic, spot.partition]] = spot.offset
    return found


def _offsets(
    admin: Admin, partitions: Sequence[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    wanted_by_spot = by_spot(admin.cluster, partitions)
    if not wanted_by_spot:
        return {}
    asked = {TopicPartition(*name): spec for name in wanted_by_spot}
    found = {}
    with raises_unavailable():
        futures = admin.client.list_offsets(asked, request_timeout=ANSWER_SECONDS)
        for spot, future in futures.items():
            found[wanted_by_spot[spot.topic, spot.partition]] = future.result().offset
    if min(found.values()) < 0:
        # Where a leader does not answer librdkafka gives -1001, and no error (2.16, seen). Taken
        # for an end it would say that all there is was read.
        raise Unavailable("Kafka: a leader does not answer")
    return found


def _described(admin: Admin, names: Iterable[str]) -> dict[str, Any]:
    asked = confluent_kafka.TopicCollection([admin.cluster.topic(name) for name in names])
    with raises_unavailable():
        futures = admin.client.describe_topics(asked, request_timeout=ANSWER_SECONDS)
        return {admin.cluster.name_of(name): done.result() for name, done in futures.items()}


def _uuid(id: Any) -> UUID:
    high = id.get_most_significant_bits() & (2**64 - 1)
    low = id.get_least_significant_bits() & (2**64 - 1)
    return UUID(int=high << 64 | low)
