"""The partitions that a consumer holds, by the ids that their topics have now."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from confluent_kafka import TopicPartition

from courant.kafka.clients import Cluster
from courant.topics import Partition, Positions

Name = tuple[str, int]
"""A partition as the client identifies it: the topic's name on the cluster, and a number."""


class Assignment:
    """The partitions that are held, and the position in each."""

    def __init__(self, cluster: Cluster) -> None:
        self.named = True
        """Whether the ids were read after the last assignment. A topic that was deleted and created
        again comes back as an assignment, with another id."""
        self.ids: Mapping[str, UUID] = {}
        self.held: dict[Name, Partition] = {}
        self.positions: dict[Partition, int | None] = {}  # None: no record was read yet
        self._cluster = cluster

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Hold these partitions. They have the last known ids until `rename` is called."""
        self.named = False
        for each in partitions:
            topic = self._cluster.name_of(each.topic)
            partition = Partition(topic, self.ids[topic], each.partition)
            self.held[each.topic, each.partition] = partition
            self.positions[partition] = None

    def remove(self, partitions: Iterable[TopicPartition]) -> list[Partition]:
        """Hold these partitions no longer; returns them."""
        gone = [self.held.pop((each.topic, each.partition)) for each in partitions]
        for partition in gone:
            del self.positions[partition]
        return gone

    def rename(self, ids: Mapping[str, UUID]) -> list[Partition]:
        """Rename every partition to its topic's present id.

        Returns the partitions of recreated topics from which records were read before: their
        positions belong to the former topic.
        """
        self.ids, self.named = ids, True
        read = []
        for name, partition in self.held.items():
            renamed = partition._replace(topic_id=ids[partition.topic])
            if renamed != partition:
                self.held[name] = renamed
                position = self.positions.pop(partition)
                self.positions[renamed] = None
                read += [renamed] if position is not None else []
        return read

    def unread(self) -> list[Partition]:
        """Return the partitions from which no record was read yet."""
        return [partition for partition, position in self.positions.items() if position is None]

    def known(self) -> Positions:
        """Return the positions that are known."""
        return {each: position for each, position in self.positions.items() if position is not None}
