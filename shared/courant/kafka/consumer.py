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
from courant.kafka.assignment import Assignment
from courant.kafka.clients import Cluster, admin, common, headers_of
from courant.kafka.commits import CommitAnswers, raise_for_commit
from courant.kafka.offsets import (
    by_topic_and_number,
    committed,
    log_firsts_after,
    log_starts,
    topic_ids,
)
from courant.records import Record, ends_of
from courant.topics import Folded, Partition, Positions

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
COMMIT_SECONDS = 5.0
COMMIT_POLL_SECONDS = 0.001  # between two polls for a commit's answer
PREFETCHED_MAX = 1_000  # messages kept while a commit waits; beyond it the partitions are paused
POLL_INTERVAL_MAX = timedelta(minutes=5)
"""`max.poll.interval.ms`: a member that does not poll for longer loses its partitions."""


class KafkaConsumer:
    """A member of a consumer group: `consume.Consumer` on a Kafka cluster."""

    def __init__(self, cluster: Cluster, group: str, topics: Sequence[str]) -> None:
        self._topics = topics
        self._cluster, self._group = cluster, group
        self._assignment = Assignment(cluster)
        self._resting = False
        self._closed = False
        self._prefetched: list[Message] = []  # taken from the client, but not yet returned by poll
        self._commits = CommitAnswers()
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
                "on_commit": self._commits.add,
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
        if not self._assignment.ids:
            self._join()
        if (
            not self._prefetched
            and (first := self._call(self._consumer.poll, POLL_SECONDS)) is not None
        ):
            self._prefetched.append(first)
        if self._prefetched and len(self._prefetched) < limit:
            # The records that came with it are already in memory, so this waits for none.
            more = self._call(self._consumer.consume, limit - len(self._prefetched), 0)
            self._prefetched += more
        self._name_partitions()
        messages, self._prefetched = self._prefetched[:limit], self._prefetched[limit:]
        records = [self._record(message) for message in messages if self._is_ours(message)]
        self._assignment.positions.update(ends_of(records))
        return records

    def _join(self) -> None:
        # Ask for the ids before taking records: if this raised later, those records would be lost,
        # because the client does not return them twice.
        self._assignment.ids = self._present_ids()
        self._consumer.subscribe(
            [self._cluster.topic(topic) for topic in self._topics],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )

    def _present_ids(self) -> Mapping[str, UUID]:
        with admin(self._cluster, self._group) as client:
            return topic_ids(client, self._topics)

    def _name_partitions(self) -> None:
        """Read the topics' ids, unless they were read since the last assignment.

        This is not done in the callback, where an exception would leave the partitions without an
        owner. If it raises here, the messages stay prefetched.
        """
        if self._assignment.named:
            return
        if recreated := self._assignment.rename(self._present_ids()):
            self._forget(recreated)
            # The client would go on at the former topic's offset.
            self.seek(self.starts(recreated))

    def positions(self) -> Positions:
        self._name_partitions()
        if unread := self._assignment.unread():
            positions = self._call(committed, self._consumer, self._cluster, unread)
            # A partition without a commit is read from the start of its log.
            positions |= self.starts(each for each in unread if each not in positions)
            self._assignment.positions.update(positions)
        return self._assignment.known()

    def seek(self, positions: Positions) -> None:
        held = {p: offset for p, offset in positions.items() if p in self._assignment.positions}
        self._forget(held)
        for partition, offset in held.items():
            self._seek_to(self._topic_partition(partition, offset))
            if partition in self._assignment.positions:
                self._assignment.positions[partition] = offset

    def starts(self, partitions: Iterable[Partition]) -> Positions:
        """Return the start of each partition's log. Retention has deleted the records before it."""
        starts: Positions = self._call(log_starts, self._consumer, self._cluster, partitions)
        return starts

    def firsts_after(self, folded: Mapping[Partition, Folded]) -> Positions:
        firsts: Positions = self._call(log_firsts_after, self._consumer, self._cluster, folded)
        if any(first < folded[partition].next for partition, first in firsts.items()):
            # A topic that was recreated, and not assigned again, looks like one that lost records.
            self._assignment.named = False
            self._name_partitions()
            if not folded.keys() <= self._assignment.positions.keys():
                raise Unavailable("a topic was recreated, or partitions were revoked")
        return firsts

    def rest(self, delay: timedelta) -> None:
        self._resting = True
        until = time.monotonic() + delay.total_seconds()
        try:
            self._call(self._consumer.pause, self._consumer.assignment())
            while (left := until - time.monotonic()) > 0:
                message = self._call(self._consumer.poll, min(left, POLL_SECONDS))
                if message is not None and not message.error():
                    self._put_back(message)
        finally:
            self._resting = False
            self._call(self._consumer.resume, self._consumer.assignment())

    def commit(self, records: Sequence[Record]) -> None:
        if not records:
            return
        ends = ends_of(records)
        # The broker checks only that the member is in the group. It would accept a commit for a
        # partition that this member gave up meanwhile, and so move another member's offset.
        held = {
            partition: end
            for partition, end in ends.items()
            if partition in self._assignment.positions
        }
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
        offsets = [self._topic_partition(*position) for position in positions.items()]
        self._commits.clear()
        self._call(self._consumer.commit, offsets=offsets, asynchronous=True)
        until = time.monotonic() + COMMIT_SECONDS
        while (answer := self._commits.to(offsets)) is None:
            if time.monotonic() > until:
                raise Unavailable("commit: no answer yet")
            if len(self._prefetched) > PREFETCHED_MAX:
                self.rest(timedelta(seconds=POLL_SECONDS))
            elif (message := self._call(self._consumer.poll, COMMIT_POLL_SECONDS)) is not None:
                self._prefetched.append(message)
                # In a backlog the next message comes at once. Without a pause, a thousand would
                # come before the answer.
                time.sleep(COMMIT_POLL_SECONDS)
        error, committed_offsets = answer
        for fault in filter(None, (error, *(offset.error for offset in committed_offsets))):
            raise_for_commit(fault)

    def close(self) -> None:
        """Leave the group."""
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _is_ours(self, message: Message) -> bool:
        """Return whether the message is a record of a partition that this member still holds."""
        if error := message.error():
            self._raise_unless_transient(error)
            return False
        return (message.topic(), message.partition()) in self._assignment.held

    def _record(self, message: Message) -> Record:
        partition = self._assignment.held[message.topic(), message.partition()]  # type: ignore[index]
        _, ms = message.timestamp()
        return Record(
            partition=partition,
            offset=message.offset() or 0,
            key=message.key() or b"",
            value=message.value() or b"",
            headers=tuple(headers_of(message)),
            timestamp=datetime.fromtimestamp(ms / 1000, UTC),
        )

    def _put_back(self, message: Message) -> None:
        # The message was in flight when the partitions were paused: seek back, to read it later.
        topic, number = message.topic(), message.partition()
        assert topic is not None
        assert number is not None
        self._seek_to(TopicPartition(topic, number, message.offset() or 0))

    def _seek_to(self, offset: TopicPartition) -> None:
        try:
            self._consumer.seek(offset)
        except KafkaException as raised:
            # A partition that was revoked meanwhile has no position here. Its new owner reads it.
            if raised.args[0].code() != KafkaError._STATE:
                raise Unavailable(f"seek: {raised.args[0].name()}") from None

    def _topic_partition(self, partition: Partition, offset: int) -> TopicPartition:
        return TopicPartition(self._cluster.topic(partition.topic), partition.number, offset)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        gone = by_topic_and_number(self._cluster, partitions)
        self._prefetched = [
            message
            for message in self._prefetched
            if (message.topic(), message.partition()) not in gone
        ]

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        # No request is made here: an exception in this callback would leave the partitions without
        # an owner.
        consumer.incremental_assign(partitions)
        # librdkafka keeps a partition paused across revocation. A partition that was revoked during
        # `rest` and is assigned again afterwards must be resumed here, or it is never read.
        (consumer.pause if self._resting else consumer.resume)(partitions)
        self._assignment.add(partitions)
        log.info("partitions assigned", extra={"partitions": self._names(partitions)})

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(self._assignment.remove(partitions))
        consumer.incremental_unassign(partitions)
        if partitions:
            log.info("partitions revoked", extra={"partitions": self._names(partitions)})

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
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
