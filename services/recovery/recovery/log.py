"""How far Kafka's topics are written, and how far groups have read them."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from courant import kafka
from courant.errors import Unavailable
from courant.topics import Partition, Positions

ANSWER_SECONDS = 5.0


class KafkaLog:
    """`marks.Log` on a broker."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self._bootstrap, self._name = bootstrap, name
        self._open = ExitStack()
        self._admin = self._open.enter_context(kafka.admin(bootstrap, name))
        self._groups: dict[str, kafka.Commits] = {}

    def ends(self, topics: Iterable[str]) -> Positions:
        # The partitions are asked for each time: what a new one holds would be missed.
        return kafka.ends(self._admin, kafka.partitions(self._admin, topics))

    def committed(self, groups: Mapping[str, str]) -> Positions:
        found: dict[Partition, int] = {}
        wanted = kafka.partitions(self._admin, groups)
        for topic, group in groups.items():
            found |= self._commits(group).of([each for each in wanted if each.topic == topic])
        return {**self._starts([each for each in wanted if each not in found]), **found}

    def close(self) -> None:
        """Let go of the broker."""
        self._open.close()

    def _commits(self, group: str) -> kafka.Commits:
        if group not in self._groups:
            made = kafka.Commits(self._bootstrap, self._name, group)
            self._groups[group] = self._open.enter_context(closing(made))
        return self._groups[group]

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
