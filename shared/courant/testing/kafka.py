"""A Kafka in memory that behaves like the real one wherever a service could lose or repeat work.

It has partitions by key, one position per group, rebalances on join and leave, partitions that stay
paused across revocation, commits fenced by epoch, writes that reach the log only in flush and one
by one, and a broker that refuses for a while. It can lose the end of its logs, go back to an older
copy, and have a topic recreated. It has no time, no retention and no reordering between partitions.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Protocol
from uuid import UUID
from zlib import crc32

from courant.errors import Fenced, Unavailable
from courant.records import Outgoing, Record
from courant.testing.builders import partition
from courant.topics import Folded, Partition, Positions

PARTITIONS = 3
ID_BYTES = 16


class Surroundings(Protocol):
    """What the fakes need of the world around them."""

    journal: list[tuple[str, str]]

    def now(self) -> datetime: ...

    def pass_by(self) -> None: ...


class FakeKafka:
    """Topics, and the groups that read them."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.log: dict[Partition, list[Record]] = {}
        self.written: list[Record] = []  # all records in their order, also those that were lost
        self._ids: dict[str, UUID] = {}  # of topics that were recreated
        self.committed: dict[tuple[str, Partition], int] = defaultdict(int)
        self.members: dict[str, list[FakeConsumer]] = defaultdict(list)
        self.epoch: dict[str, int] = defaultdict(int)
        self.refusals = 0  # how many more times flush will fail

    def partitions(self, *topics: str) -> list[Partition]:
        """Return the partitions of these topics; creates those that do not exist yet."""
        found = [
            partition(topic, number)._replace(topic_id=self._ids[topic])
            if topic in self._ids
            else partition(topic, number)
            for topic in topics
            for number in range(PARTITIONS)
        ]
        for each in found:
            self.log.setdefault(each, [])
        return found

    def since(self, at: datetime, topics: Collection[str]) -> Positions:
        """Return the first offset written at or after a time, where there is one."""
        found = {
            each: [record.offset for record in log if record.timestamp >= at]
            for each, log in self.log.items()
            if each.topic in topics
        }
        return {each: offsets[0] for each, offsets in found.items() if offsets}

    def append(self, outgoing: Outgoing) -> None:
        """Make one record durable."""
        at = self.partitions(outgoing.topic)[crc32(outgoing.key) % PARTITIONS]
        log, now = self.log[at], self.world.now()
        log.append(Record(at, len(log), outgoing.key, outgoing.value, outgoing.headers, now))
        self.written.append(log[-1])
        origin = dict(outgoing.headers).get("courant.origin", b"").decode()
        if len(outgoing.key) == ID_BYTES:  # heartbeats and figures belong to no notification
            self.world.journal.append((outgoing.topic, origin or str(UUID(bytes=outgoing.key))))

    def newest(self, part: int) -> list[Record]:
        """Return the newest of the records that the logs have, one of so many."""
        present = {id(record) for log in self.log.values() for record in log}
        order = [record for record in self.written if id(record) in present]
        return order[len(order) - len(order) // part :]

    def lose(self, newest: Sequence[Record]) -> None:
        """Lose the newest records. What groups have committed stays."""
        for record in reversed(newest):
            assert self.log[record.partition].pop() is record

    def restore(self, newest: Sequence[Record]) -> None:
        """Go back to a copy that lacks the newest records, and has the groups' commits."""
        self.lose(newest)
        for (group, each), at in self.committed.items():
            self.committed[group, each] = min(at, len(self.log.get(each, ())))
        self._rejoin()

    def recreate(self, topic: str) -> None:
        """Delete a topic and create it again, with another id."""
        partitions = self.partitions(topic)
        for each in partitions:
            del self.log[each]
        self._ids[topic] = UUID(int=partitions[0].topic_id.int + (1 << 64))
        self._rejoin()

    def _rejoin(self) -> None:
        for group, members in list(self.members.items()):
            self.rebalance(group, members)

    def rebalance(self, group: str, members: "list[FakeConsumer]") -> None:
        """Share the group's partitions among exactly these members."""
        self.members[group] = members
        self.epoch[group] += 1


class FakeConsumer:
    """A member of a group."""

    def __init__(self, kafka: FakeKafka, group: str, topics: Sequence[str]) -> None:
        self.kafka, self.group, self.topics = kafka, group, topics
        self.rests = 0
        self.empties = 0  # consecutive polls that returned nothing
        self._epoch = -1
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()  # as in librdkafka, a revoked partition stays paused
        self._resting = False

    def poll(self, limit: int) -> Sequence[Record]:
        self._attend()
        for each, position in self._positions.items():
            if position > len(self.kafka.log[each]):
                self._positions[each] = 0  # auto.offset.reset=earliest
        records = [
            record
            for partition, position in self._positions.items()
            if partition not in self._paused
            for record in self.kafka.log[partition][position:]
        ][:limit]
        for record in records:
            self._positions[record.partition] = record.offset + 1
        self.empties = 0 if records else self.empties + 1
        self.kafka.world.pass_by()
        return records

    def _attend(self) -> None:
        """Join the group unless we are a member, and take over the partitions of a rebalance."""
        if self not in self.kafka.members[self.group]:
            self.kafka.rebalance(self.group, [*self.kafka.members[self.group], self])
        if self._epoch != self.kafka.epoch[self.group]:
            self._epoch = self.kafka.epoch[self.group]
            members = self.kafka.members[self.group]
            self._assign(
                partition
                for partition in self.kafka.partitions(*self.topics)
                if members[partition.number % len(members)] is self
            )

    def _assign(self, partitions: Iterable[Partition]) -> None:
        self._positions = {each: self.kafka.committed[self.group, each] for each in partitions}
        if self._resting:
            self._paused |= self._positions.keys()
        else:
            self._paused -= self._positions.keys()

    def positions(self) -> Positions:
        return dict(self._positions)

    def seek(self, positions: Positions) -> None:
        self._positions.update(
            {each: there for each, there in positions.items() if each in self._positions}
        )

    def firsts_after(self, folded: Mapping[Partition, Folded]) -> Positions:
        self._attend()
        if not folded.keys() <= self._positions.keys():
            raise Unavailable("a topic was recreated, or partitions were revoked")
        logs = {each: self.kafka.log[each] for each in folded}
        return {
            each: bisect_right(log, at, key=attrgetter("timestamp")) if at else len(log)
            for (each, log), (_, at) in zip(logs.items(), folded.values(), strict=True)
        }

    def starts(self, partitions: Iterable[Partition]) -> Positions:
        return dict.fromkeys(partitions, 0)

    def rest(self, delay: timedelta) -> None:
        """Pause all partitions during the rest and count it; a fault can strike meanwhile.

        The real consumer polls while it rests and so notices a rebalance. This one does too.
        """
        assert delay
        self.rests += 1
        self._resting = True
        self._paused |= self._positions.keys()
        self.kafka.world.pass_by()
        self._attend()
        self._resting = False
        self._paused -= self._positions.keys()

    def commit(self, records: Sequence[Record]) -> None:
        self.kafka.world.pass_by()
        if self._epoch != self.kafka.epoch[self.group]:
            raise Fenced
        held = [each for each in records if each.partition in self._positions]
        for record in held:
            self.kafka.committed[self.group, record.partition] = record.offset + 1
        if len(held) < len(records):
            raise Fenced
        self.kafka.world.pass_by()

    def commit_at(self, positions: Positions) -> None:
        if self._epoch != self.kafka.epoch[self.group]:
            raise Fenced
        self.kafka.committed.update({(self.group, each): at for each, at in positions.items()})

    def leave(self) -> None:
        """Leave the group, in an orderly way or by a crash."""
        others = [each for each in self.kafka.members[self.group] if each is not self]
        self.kafka.rebalance(self.group, others)


class FakeProducer:
    """A producer whose buffer is lost when its process dies."""

    def __init__(self, kafka: FakeKafka) -> None:
        self.kafka = kafka
        self._buffer: list[Outgoing] = []

    def produce(self, outgoing: Outgoing) -> None:
        self._buffer.append(outgoing)

    def flush(self) -> None:
        """Make the queued records durable, one by one; raises Unavailable."""
        while self._buffer:
            self.kafka.world.pass_by()
            if self.kafka.refusals:
                self.kafka.refusals -= 1
                raise Unavailable("the broker is slow")
            self.kafka.append(self._buffer.pop(0))
