"""The consumer of a stage, on librdkafka.

All options are written out, because librdkafka's defaults lose records: they skip some
(`auto.offset.reset=latest`) and commit records before they are handled (auto commit). They also
take 45 s to reassign the partitions of a killed member.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from courant.errors import Fenced, Unavailable
from courant.kafka.clients import Cluster, admin, common, headers_of
from courant.kafka.offsets import begun, by_spot, committed, topic_ids
from courant.records import Record, ends_of
from courant.topics import Partition, Positions

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 5.0
COMMIT_LOOK_SECONDS = 0.001  # between two polls for a commit's answer
AHEAD_MAX = 1_000  # messages kept while a commit waits; beyond it the partitions are paused
POLL_INTERVAL_MAX = timedelta(minutes=5)
"""`max.poll.interval.ms`: a member that does not poll for longer loses its partitions."""

LOST = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._NO_OFFSET,
}
"""Errors of a commit that mean that another member has the partitions now."""


class KafkaConsumer:
    """A member of a consumer group: `consume.Consumer` on a Kafka cluster."""

    def __init__(self, cluster: Cluster, group: str, topics: Sequence[str]) -> None:
        self._topics = topics
        self._cluster, self._group = cluster, group
        self._topic_ids: Mapping[str, UUID] = {}
        self._held: dict[tuple[str, int], Partition] = {}
        self._positions: dict[Partition, int | None] = {}  # None: no record was read yet
        self._resting = False
        self._closed = False
        self._ahead: list[Message] = []  # taken from the client, but not yet returned by poll
        self._answers: list[tuple[KafkaError | None, list[TopicPartition]]] = []  # of commits
        self._consumer = Consumer(
            {
                **common(cluster, group),
                "group.id": cluster.group(group),
                # The broker then sets session and heartbeat: 9 s and 1 s
                # (docs/how-to/run-in-production.md).
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "on_commit": lambda error, places: self._answers.append((error, places)),
                "max.poll.interval.ms": int(POLL_INTERVAL_MAX.total_seconds() * 1000),
                "fetch.wait.max.ms": 500,
                "fetch.min.bytes": 1,
                "fetch.error.backoff.ms": 50,
                "queued.max.messages.kbytes": 16_384,
                "isolation.level": "read_uncommitted",
                "allow.auto.create.topics": False,
            }
        )

    def poll(self, limit: int) -> Sequence[Record]:
        """Return up to `limit` records. Wait up to `POLL_SECONDS` for the first one only."""
        if not self._topic_ids:
            self._join()
        if not self._ahead and (first := self._ask(self._consumer.poll, POLL_SECONDS)) is not None:
            self._ahead.append(first)
        if self._ahead and len(self._ahead) < limit:
            # The records that came with it are already in memory, so this waits for none.
            more = self._ask(self._consumer.consume, limit - len(self._ahead), 0)
            self._ahead += more
        messages, self._ahead = self._ahead[:limit], self._ahead[limit:]
        records = [self._record(each) for each in messages if self._is_ours(each)]
        self._positions.update(ends_of(records))
        return records

    def _join(self) -> None:
        # Ask for the ids before taking records: if this raised later, those records would be lost,
        # because the client does not return them twice.
        with admin(self._cluster, self._group) as client:
            self._topic_ids = topic_ids(client, self._topics)
        self._consumer.subscribe(
            [self._cluster.topic(each) for each in self._topics],
            on_assign=self._given,
            on_revoke=self._taken,
            on_lost=self._taken,
        )

    def positions(self) -> Positions:
        unread = [each for each, place in self._positions.items() if place is None]
        if unread:
            places = self._ask(committed, self._consumer, self._cluster, unread)
            # A partition without a commit is read from the start of its log.
            places |= self.starts(each for each in unread if each not in places)
            self._positions.update(places)
        return {each: place for each, place in self._positions.items() if place is not None}

    def seek(self, positions: Positions) -> None:
        self._forget(positions)
        for each, offset in positions.items():
            if each in self._positions:
                self._stand(self._spot(each, offset))
                if each in self._positions:
                    self._positions[each] = offset

    def starts(self, partitions: Iterable[Partition]) -> Positions:
        """Return the start of each partition's log. Retention has deleted the records before it."""
        found: Positions = self._ask(begun, self._consumer, self._cluster, partitions)
        return found

    def rest(self, delay: timedelta) -> None:
        self._resting = True
        until = time.monotonic() + delay.total_seconds()
        try:
            self._ask(self._consumer.pause, self._consumer.assignment())
            while (left := until - time.monotonic()) > 0:
                message = self._ask(self._consumer.poll, min(left, POLL_SECONDS))
                if message is not None and not message.error():
                    self._again(message)
        finally:
            self._resting = False
            self._ask(self._consumer.resume, self._consumer.assignment())

    def commit(self, records: Sequence[Record]) -> None:
        if not records:
            return
        ends = ends_of(records)
        # The broker checks only that the member is in the group. It would accept a commit for a
        # partition that this member gave up meanwhile, and so move another member's offset.
        held = {each: end for each, end in ends.items() if each in self._positions}
        if held:
            self.commit_at(held)
        if len(held) < len(ends):
            raise Fenced("partitions were revoked")

    def commit_at(self, positions: Positions) -> None:
        """Commit these offsets; raises Fenced, Unavailable.

        Polls until the answer comes. After a freeze, the broker delays the commit until a rebalance
        is done, and the rebalance waits for this member's poll. No other thread can poll, because
        the client allows one thread at a time.
        """
        spots = [self._spot(each, at) for each, at in positions.items()]
        self._answers.clear()
        self._ask(self._consumer.commit, offsets=spots, asynchronous=True)
        until = time.monotonic() + PATIENCE_SECONDS
        while (answer := self._answer(spots)) is None:
            if time.monotonic() > until:
                raise Unavailable("commit: no answer yet")
            if len(self._ahead) > AHEAD_MAX:
                self.rest(timedelta(seconds=POLL_SECONDS))
            elif (message := self._ask(self._consumer.poll, COMMIT_LOOK_SECONDS)) is not None:
                self._ahead.append(message)
                # In a backlog the next message comes at once. Without a pause, a thousand would
                # come before the answer.
                time.sleep(COMMIT_LOOK_SECONDS)
        error, places = answer
        for refused in filter(None, (error, *(each.error for each in places))):
            self._refused(refused)

    def _answer(
        self, spots: Sequence[TopicPartition]
    ) -> tuple[KafkaError | None, list[TopicPartition]] | None:
        """Return the answer to this commit, if it came. A late answer to another is skipped."""
        wanted = {(each.topic, each.partition, each.offset) for each in spots}
        for error, places in self._answers:
            if {(each.topic, each.partition, each.offset) for each in places} == wanted:
                return error, places
        return None

    def close(self) -> None:
        """Leave the group."""
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _refused(self, error: KafkaError) -> None:
        if error.code() in LOST:
            raise Fenced(error.name())
        if error.fatal():
            raise KafkaException(error)
        raise Unavailable(f"commit: {error.name()}")

    def _is_ours(self, message: Message) -> bool:
        """Return whether the message is a record of a partition that this member still holds."""
        if error := message.error():
            self._raise_unless_transient(error)
            return False
        return (message.topic(), message.partition()) in self._held

    def _record(self, message: Message) -> Record:
        partition = self._held[message.topic(), message.partition()]  # type: ignore[index]
        _, ms = message.timestamp()
        return Record(
            partition=partition,
            offset=message.offset() or 0,
            key=message.key() or b"",
            value=message.value() or b"",
            headers=tuple(headers_of(message)),
            timestamp=datetime.fromtimestamp(ms / 1000, UTC),
        )

    def _again(self, message: Message) -> None:
        # The message was in flight when the partitions were paused: seek back, to read it later.
        topic, number = message.topic(), message.partition()
        assert topic is not None
        assert number is not None
        self._stand(TopicPartition(topic, number, message.offset() or 0))

    def _stand(self, spot: TopicPartition) -> None:
        try:
            self._consumer.seek(spot)
        except KafkaException as raised:
            # A partition that was revoked meanwhile has no position here. Its new owner reads it.
            if raised.args[0].code() != KafkaError._STATE:
                raise Unavailable(f"seek: {raised.args[0].name()}") from None

    def _spot(self, partition: Partition, offset: int) -> TopicPartition:
        return TopicPartition(self._cluster.topic(partition.topic), partition.number, offset)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        gone = by_spot(self._cluster, partitions)
        self._ahead = [each for each in self._ahead if (each.topic(), each.partition()) not in gone]

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        # No request is made here: an exception in this callback would leave the partitions without
        # an owner.
        consumer.incremental_assign(partitions)
        # librdkafka keeps a partition paused across revocation. A partition that was revoked during
        # `rest` and is assigned again afterwards must be resumed here, or it is never read.
        (consumer.pause if self._resting else consumer.resume)(partitions)
        for each in partitions:
            topic = self._cluster.name_of(each.topic)
            partition = Partition(topic, self._topic_ids[topic], each.partition)
            self._held[each.topic, each.partition] = partition
            self._positions[partition] = None
        log.info("partitions assigned", extra={"partitions": self._names(partitions)})

    def _taken(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = [self._held.pop((each.topic, each.partition)) for each in partitions]
        self._forget(gone)
        for partition in gone:
            del self._positions[partition]
        consumer.incremental_unassign(partitions)
        if partitions:
            log.info("partitions revoked", extra={"partitions": self._names(partitions)})

    def _ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except KafkaException as raised:
            error: KafkaError = raised.args[0]
            self._raise_unless_transient(error)
            raise Unavailable(f"Kafka: {error.name()}") from None

    def _raise_unless_transient(self, error: KafkaError) -> None:
        if error.fatal():
            raise KafkaException(error)
        if error.code() == KafkaError._PARTITION_EOF:
            return
        log.debug("transient error from Kafka", extra={"reason": error.name()})

    def _names(self, partitions: Iterable[TopicPartition]) -> list[str]:
        name_of = self._cluster.name_of
        return sorted(f"{name_of(each.topic)}/{each.partition}" for each in partitions)
