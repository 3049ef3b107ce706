"""Reads whole topics to their end, without a consumer group."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from courant.errors import Unavailable
from courant.kafka.clients import ANSWER_SECONDS, Cluster, common, raises_unavailable

SILENT_SECONDS = 10.0
READ_MAX = 1000


class TopicReader:
    """A reader of partitions, each a topic's name and a number, from their start or from a time.

    Raises Unavailable if Kafka cannot look up the time.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        partitions: Iterable[tuple[str, int]],
        since: datetime | None = None,
    ) -> None:
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
        start = OFFSET_BEGINNING if since is None else int(since.timestamp() * 1000)
        starts = [
            TopicPartition(cluster.topic(topic), number, start) for topic, number in partitions
        ]
        if since is not None and starts:
            with raises_unavailable():
                starts = self._consumer.offsets_for_times(starts, ANSWER_SECONDS)
            # A partition without a record since then has no such offset, and nothing to read.
            starts = [each for each in starts if each.offset >= 0]
        self.unread = {(each.topic, each.partition) for each in starts}
        """The partitions whose end was not reached yet."""
        self._consumer.assign(starts)

    def read(self, seconds: float) -> Iterator[Message]:
        """Yield the records that are there, as soon as there are any.

        Waits at most `seconds` for the first one, so a caller that loops sees a record as soon as
        it is written. A partition leaves `unread` when its end is reached.
        """
        if (first := self._consumer.poll(seconds)) is None:
            return
        for message in (first, *self._consumer.consume(READ_MAX, 0)):
            error = message.error()
            if not error:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                self.unread.discard((str(message.topic()), message.partition() or 0))

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._consumer.close()


def read_to_end(reader: TopicReader) -> Iterator[Message]:
    """Yield every record up to the end of each partition; the reader can read on afterwards.

    Raises Unavailable if Kafka sends nothing for SILENT_SECONDS: what was read is not all.
    """
    while reader.unread:
        unread, records = len(reader.unread), 0
        for message in reader.read(SILENT_SECONDS):
            records += 1
            yield message
        if not records and len(reader.unread) == unread:
            raise Unavailable(f"Kafka: no record and no end within {SILENT_SECONDS:.0f} s")
