"""How far Kafka's topics are written, and how far groups have read them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from courant import kafka
from courant.errors import Unavailable
from courant.topics import Partition, Positions

ANSWER_SECONDS = 5.0


class KafkaLog:
    """`marks.Log` on a broker."""

    def __init__(self, make: Callable[[], AbstractContextManager[AdminClient]]) -> None:
        self._make = make
        self._open = ExitStack()
        self._admin = self._open.enter_context(make())

    def ends(self, topics: Iterable[str]) -> Positions:
        with self._renewing():
            # The partitions are asked for each time: what a new one holds would be missed.
            return kafka.ends(self._admin, kafka.partitions(self._admin, topics))

    def committed(self, groups: Mapping[str, str]) -> Positions:
        with self._renewing():
            return self._committed(groups)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            # A client that has asked for offsets before its broker was killed gets no answer to
            # that from the one that comes back, for good (confluent-kafka 2.16).
            self._open.close()
            self._admin = self._open.enter_context(self._make())
            raise

    def _committed(self, groups: Mapping[str, str]) -> Positions:
        found: dict[Partition, int] = {}
        wanted = kafka.partitions(self._admin, groups)
        for topic, group in groups.items():
            its = [each for each in wanted if each.topic == topic]
            found.update(kafka.committed(self._admin, group, its))
        return {**self._starts([each for each in wanted if each not in found]), **found}

    def _starts(self, partitions: Iterable[Partition]) -> Positions:
        by_name = {(each.topic, each.number): each for each in partitions}
        if not by_name:
            return {}
        wanted = {TopicPartition(*name): OffsetSpec.earliest() for name in by_name}
        futures = self._admin.list_offsets(wanted, request_timeout=ANSWER_SECONDS)
        try:
            return {
                by_name[spot.topic, spot.partition]: future.result().offset
                for spot, future in futures.items()
            }
        except KafkaException as raised:
            raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
