"""Asks the cluster for partitions, for the start and end of their logs, and for commits."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import confluent_kafka
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from courant.errors import Unavailable
from courant.kafka.clients import ANSWER_SECONDS, Admin, Cluster, common, raises_unavailable
from courant.topics import Folded, Partition, Positions

K = TypeVar("K")


def topic_ids(admin: Admin, names: Iterable[str]) -> dict[str, UUID]:
    """Return the ids of topics by name; raises Unavailable."""
    return {each.topic: each.topic_id for each in partitions(admin, names)}


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


def known_ends(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Return the ends of those topics of which every partition's leader answers.

    Raises Unavailable if there is no such topic.
    """
    return _known_offsets(admin, partitions, OffsetSpec.latest())


def known_starts(admin: Admin, partitions: Sequence[Partition]) -> Positions:
    """Return the same as `known_ends`, of the start of each partition's log."""
    return _known_offsets(admin, partitions, OffsetSpec.earliest())


def known_partitions(admin: Admin, topics: Iterable[str]) -> list[Partition]:
    """Return the partitions of those topics that the cluster describes.

    Raises Unavailable if it describes none.
    """
    with raises_unavailable():
        described = _answers(_descriptions(admin, topics))
    return _partitions(admin, described)


def partitions(admin: Admin, topics: Iterable[str]) -> list[Partition]:
    """Return the partitions that these topics have now; raises Unavailable."""
    with raises_unavailable():
        futures = _descriptions(admin, topics)
        return _partitions(admin, {name: done.result() for name, done in futures.items()})


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
    return _found(consumer, cluster, dict.fromkeys(partitions, OFFSET_BEGINNING))


def log_firsts_after(
    consumer: Consumer, cluster: Cluster, folded: Mapping[Partition, Folded]
) -> dict[Partition, int]:
    """Return for each partition the first offset whose record is newer than `at`.

    Where none is newer, it is the end of the log. Raises KafkaException, Unavailable. The log ends
    that the client keeps are not used: they are unset after an assignment, old while the broker is
    away, and may go back for a moment when a leader changes. The broker's answers do not (KIP-207).
    """
    times = {each: ms_after(position.at) for each, position in folded.items() if position.at}
    newer = _found(consumer, cluster, times)
    firsts = {each: offset for each, offset in newer.items() if offset != OFFSET_END}
    asked = dict.fromkeys(folded.keys() - firsts.keys(), OFFSET_END)
    return firsts | _found(consumer, cluster, asked)


def ms_after(at: datetime) -> int:
    """Return the first millisecond after a time, as Kafka counts them."""
    return round(at.timestamp() * 1000) + 1


def _found(
    consumer: Consumer, cluster: Cluster, times: Mapping[Partition, int]
) -> dict[Partition, int]:
    by_name = by_topic_and_number(cluster, times)
    asked = [TopicPartition(*name, times[partition]) for name, partition in by_name.items()]
    found = {}
    for answer in consumer.offsets_for_times(asked, ANSWER_SECONDS) if asked else ():
        if answer.error is not None:
            raise KafkaException(answer.error)
        partition = by_name[answer.topic, answer.partition]
        # OFFSET_END says that no record is as late as the time that was asked for.
        if answer.offset < 0 and not (times[partition] >= 0 and answer.offset == OFFSET_END):
            raise Unavailable("Kafka: a leader does not answer")
        found[partition] = answer.offset
    return found


def since(
    consumer: Consumer, cluster: Cluster, partitions: Iterable[Partition], at: datetime
) -> dict[Partition, int]:
    """Return the first offset that was written at or after a time, where there is one.

    Raises KafkaException.
    """
    by_name = by_topic_and_number(cluster, partitions)
    asked = [TopicPartition(*name, int(at.timestamp() * 1000)) for name in by_name]
    positions = {}
    for answer in consumer.offsets_for_times(asked, ANSWER_SECONDS) if asked else ():
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset >= 0:
            positions[by_name[answer.topic, answer.partition]] = answer.offset
    return positions


def _offsets(
    admin: Admin, partitions: Sequence[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    by_name = by_topic_and_number(admin.cluster, partitions)
    with raises_unavailable():
        futures = _listings(admin, by_name, spec)
        positions = {by_name[name]: future.result().offset for name, future in futures.items()}
    # If a leader does not answer, librdkafka returns -1001 and no error (seen with 2.16). As the
    # end of a log it would mean that every record was read.
    if min(positions.values(), default=0) < 0:
        raise Unavailable("Kafka: a leader does not answer")
    return positions


def _known_offsets(
    admin: Admin, partitions: Sequence[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    by_name = by_topic_and_number(admin.cluster, partitions)
    with raises_unavailable():
        answers = _answers(_listings(admin, by_name, spec))
    offsets = {by_name[name]: answer.offset for name, answer in answers.items()}
    silent = {each.topic for each in partitions if offsets.get(each, -1) < 0}
    known = {each: at for each, at in offsets.items() if each.topic not in silent}
    if not known:
        raise Unavailable("Kafka: no topic's leaders all answer")
    return known


def _listings(
    admin: Admin, names: Iterable[tuple[str, int]], spec: OffsetSpec
) -> dict[tuple[str, int], Any]:
    asked = {TopicPartition(*name): spec for name in names}
    futures = admin.client.list_offsets(asked, request_timeout=ANSWER_SECONDS) if asked else {}
    return {(each.topic, each.partition): future for each, future in futures.items()}


def _descriptions(admin: Admin, names: Iterable[str]) -> dict[str, Any]:
    asked = confluent_kafka.TopicCollection([admin.cluster.topic(name) for name in names])
    return admin.client.describe_topics(asked, request_timeout=ANSWER_SECONDS)


def _answers(futures: Mapping[K, Any]) -> dict[K, Any]:
    """Return the answers that came; raises KafkaException if none came."""
    answers: dict[K, Any] = {}
    failures: list[KafkaException] = []
    for asked, future in futures.items():
        try:
            answers[asked] = future.result()
        except KafkaException as failure:
            failures.append(failure)
    if failures and not answers:
        raise failures[0]
    return answers


def _partitions(admin: Admin, described: Mapping[str, Any]) -> list[Partition]:
    return [
        Partition(admin.cluster.name_of(name), _uuid(topic.topic_id), partition.id)
        for name, topic in described.items()
        for partition in topic.partitions
    ]


def _uuid(id: Any) -> UUID:
    high = id.get_most_significant_bits() & (2**64 - 1)
    low = id.get_least_significant_bits() & (2**64 - 1)
    return UUID(int=high << 64 | low)
