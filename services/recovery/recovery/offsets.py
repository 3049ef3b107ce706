"""The ends of Kafka's topics, and the offsets that groups have committed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from courant.errors import Unavailable
from courant.kafka import clients, offsets
from courant.kafka.clients import Admin, Cluster
from courant.topics import Partition, Positions


class GroupOffsets:
    """`marks.Offsets` on a broker."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._open = ExitStack()
        self._admin: Admin | None = None
        self._groups: dict[str, offsets.CommittedOffsets] = {}

    def ends(self, topics: Iterable[str]) -> Positions:
        with self._asking() as admin:
            # The partitions are read each time, or a mark would miss the records of a new one.
            return offsets.known_ends(admin, offsets.known_partitions(admin, topics))

    def committed(self, groups: Mapping[str, str]) -> Positions:
        with self._asking() as admin:
            partitions = offsets.known_partitions(admin, groups)
            topics = {partition.topic for partition in partitions}
            committed: dict[Partition, int] = {}
            failures: list[Unavailable] = []
            for topic in sorted(topics):
                own = [each for each in partitions if each.topic == topic]
                try:
                    committed |= self._commits(groups[topic]).of(own)
                except Unavailable as failure:
                    topics.remove(topic)
                    failures.append(failure)
            if not topics:
                raise failures[0]
            rest = [each for each in partitions if each.topic in topics and each not in committed]
            starts = offsets.known_starts(admin, rest) if rest else {}
            lacking = {each.topic for each in rest} - {each.topic for each in starts}
            positions = {**starts, **committed}
            return {
                each: at
                for each, at in positions.items()
                if each.topic in topics and each.topic not in lacking
            }

    def close(self) -> None:
        self._admin, self._groups = None, {}
        self._open.close()

    @contextmanager
    def _asking(self) -> Iterator[Admin]:
        if self._admin is None:
            self._admin = self._open.enter_context(clients.admin(self._cluster, self._name))
        try:
            yield self._admin
        except Unavailable:
            # A client that nobody polls keeps every event: while the broker is away, 18 KB a second
            # (librdkafka 2.16). So the clients are closed until the next call.
            self.close()
            raise

    def _commits(self, group: str) -> offsets.CommittedOffsets:
        if group not in self._groups:
            committed = offsets.CommittedOffsets(self._cluster, self._name, group)
            self._groups[group] = self._open.enter_context(closing(committed))
        return self._groups[group]
