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
            return offsets.ends(admin, offsets.partitions(admin, topics))

    def committed(self, groups: Mapping[str, str]) -> Positions:
        with self._asking() as admin:
            committed: dict[Partition, int] = {}
            partitions = offsets.partitions(admin, groups)
            for topic, group in groups.items():
                committed |= self._commits(group).of([p for p in partitions if p.topic == topic])
            return {
                **offsets.starts(admin, [p for p in partitions if p not in committed]),
                **committed,
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
