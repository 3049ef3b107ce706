"""A reader of one whole partition, in no consumer group."""

from collections.abc import Iterator

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, TopicPartition

from courant.kafka.clients import Cluster, common


class TopicReader:
    """Reads one partition from its start, in no group: for who keeps a whole topic in memory."""

    def __init__(self, cluster: Cluster, name: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                **common(cluster, name),
                "group.id": cluster.group(
                    f"{name}.reader"
                ),  # required by the client; never joined or committed
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
        """Give the keys and values that are there, once there are any; `at_end` tells of the end.

        Waits no longer than the time: who reads along knows of an entry as soon as it is written.
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
        """Let go of the broker."""
        self._consumer.close()
