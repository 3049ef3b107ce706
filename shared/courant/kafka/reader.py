"""Reads a topic of one partition from its start, without a consumer group."""

from collections.abc import Iterator

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, TopicPartition

from courant.kafka.clients import Cluster, common


class TopicReader:
    """A reader for callers that keep a whole topic of one partition in memory."""

    def __init__(self, cluster: Cluster, name: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                **common(cluster, name),
                # The client requires a group. It is never joined, and nothing is committed.
                "group.id": cluster.group(f"{name}.reader"),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 250,
                "allow.auto.create.topics": False,
            }
        )
        self._consumer.assign(
            [TopicPartition(cluster.topic(topic), 0, confluent_kafka.OFFSET_BEGINNING)]
        )
        self.at_end = False

    def read(self, seconds: float) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values that are there, as soon as there are any.

        Waits at most `seconds` for the first one, so a caller that loops sees an entry as soon as
        it is written. Sets `at_end` at the end of the partition.
        """
        if (first := self._consumer.poll(seconds)) is None:
            return
        for message in (first, *self._consumer.consume(1000, 0)):
            error = message.error()
            if not error:
                yield message.key() or b"", message.value() or b""
            elif error.code() == KafkaError._PARTITION_EOF:
                self.at_end = True

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._consumer.close()
