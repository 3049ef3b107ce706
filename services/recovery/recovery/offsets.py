"""How far Kafka's topics are written, and how far groups have read them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from courant.errors import Unavailable
from courant.kafka import clients, offsets
from courant.kafka.clients import Admin, Cluster
from courant.topics import Partition, Positions


class GroupOffsets:
    """`marks.Log` on a broker."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._open = ExitStack()
        self._admin: Admin | None = None
        self._groups: dict[str, offsets.CommittedOffsets] = {}

    def ends(self, topics: Iterable[str]) -> Positions:
        with self._asking() as admin:
            # The partitions are asked for each time: what a new one holds would be missed.
            return offsets.ends(admin, offsets.partitions(admin, topics))

    def committed(self, groups: Mapping[str, str]) -> Positions:
        with self._asking() as admin:
            found: dict[Partition, int] = {}
            wanted = offsets.partitions(admin, groups)
            for topic, group in groups.items():
                found |= self._commits(group).of([each for each in wanted if each.topic == topic])
            return {
                **offsets.starts(admin, [each for each in wanted if each not in found]),
                **found,
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
            # Clients that nobody polls keep all that they hear: while the broker is away that is
            # 18 KB a second each (librdkafka 2.16).
            self.close()
            raise

    def _commits(self, group: str) -> offsets.CommittedOffsets:
        if group not in self._groups:
            made = offsets.CommittedOffsets(self._cluster, self._name, group)
            self._groups[group] = self._open.enter_context(closing(made))
        return self._groups[group]
