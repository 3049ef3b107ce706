"""What the audit reads of Kafka: accepted records by their keys, and which records are dead."""

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer, Message, TopicPartition

from courant import clock, ids, topics
from courant.kafka import clients, offsets
from courant.kafka.clients import Cluster, common, raises_unavailable
from courant.kafka.offsets import by_topic_and_number
from courant.kafka.reader import TopicReader, read_to_end
from courant.postgres.days import DAYS_KEPT_MIN
from courant.topics import INBOX, JOBS, Partition, Positions
from recovery.audit.accepted import GROUPS, Accepted, accepted
from recovery.offsets import GroupOffsets

FOLLOW, WALK = "recovery.audit", "recovery.audit-walk"
"""The groups whose committed offsets are how far the audit has come. Nobody joins them."""
DEAD = tuple(topics.dead(family.name) for family in (INBOX, JOBS))
CLOCKS = timedelta(minutes=1)
"""How far the clocks of two brokers may be apart."""
READ_SECONDS = 2.0
STEP_MAX = 100
"""Records in memory at once. A chunk of an upload may have half a megabyte."""


class AuditLog:
    """The log of accepted records, and the two places in it at which the audit reads."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._offsets = GroupOffsets(cluster, FOLLOW)
        self._readers: dict[str, Consumer] = {}

    def committed(self) -> Positions:
        """Return how far the folding groups have committed; raises Unavailable."""
        return self._offsets.committed(GROUPS)

    def place(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return where a group of the audit's reads on; raises Unavailable."""
        with raises_unavailable():
            return offsets.committed(self._reader(group), self._cluster, partitions)

    def keep_place(self, group: str, places: Positions) -> None:
        """Keep the places for the process that audits next; raises Unavailable."""
        spots = [self._spot(*place) for place in places.items()]
        if spots:
            with raises_unavailable():
                self._reader(group).commit(offsets=spots, asynchronous=False)

    def since(self, at: datetime, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the first offset written at or after a time, where there is one."""
        with raises_unavailable():
            return offsets.since(self._reader(FOLLOW), self._cluster, partitions, at)

    def read(
        self, group: str, places: Positions, ends: Positions, most_bytes: int
    ) -> tuple[list[Accepted], dict[Partition, int]]:
        """Read from `places` on and before `ends`, until so many bytes are read.

        Returns the records that must be in Postgres, and the places after all that were read.
        Takes at most `READ_SECONDS`. A place before the log's start is read from the start.
        """
        reader, oldest_day = self._reader(group), ids.day_at(clock.now()) - DAYS_KEPT_MIN
        reached = {each: place for each, place in places.items() if place < ends.get(each, 0)}
        by_name = by_topic_and_number(self._cluster, reached)
        if not reached:
            return [], {}
        with raises_unavailable():
            reader.assign([self._spot(*place) for place in reached.items()])
            found: list[Accepted] = []
            until, size_bytes = time.monotonic() + READ_SECONDS, 0
            while size_bytes < most_bytes and time.monotonic() < until:
                if all(place >= ends[each] for each, place in reached.items()):
                    break
                for message in reader.consume(STEP_MAX, 0.1):
                    partition = by_name.get((str(message.topic()), message.partition() or 0))
                    if partition is None:  # an error that concerns no partition
                        continue
                    offset = message.offset() or 0
                    if offset >= ends[partition]:  # a later record, or the end of the partition
                        reached[partition] = ends[partition]
                    if message.error() or offset >= ends[partition]:
                        continue
                    key, value = message.key() or b"", message.value() or b""
                    reached[partition] = offset + 1
                    size_bytes += len(key) + len(value)
                    if one := accepted(partition, offset, key, value, _time(message), oldest_day):
                        found.append(one)
            reader.unassign()
        return found, reached

    def dead(self, missing: Sequence[Accepted]) -> set[str]:
        """Return which of these records have a dead letter, by their origin; raises Unavailable."""
        since = min(each.at for each in missing) - CLOCKS
        origins = {each.origin for each in missing}
        with clients.admin(self._cluster, FOLLOW) as admin:
            partitions = [(each.topic, each.number) for each in offsets.partitions(admin, DEAD)]
        with closing(TopicReader(self._cluster, FOLLOW, partitions, since)) as reader:
            # Of a record that died twice, the last header is of this letter.
            return origins & {
                dict(clients.headers_of(message)).get("courant.origin", b"").decode()
                for message in read_to_end(reader)
            }

    def close(self) -> None:
        """Close the clients; the next call opens them again."""
        self._offsets.close()
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def _reader(self, group: str) -> Consumer:
        if group not in self._readers:
            self._readers[group] = Consumer(
                {
                    **common(self._cluster, group),
                    "group.id": self._cluster.group(group),
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 250,
                    # Records beyond those that are asked for are read again later.
                    "queued.max.messages.kbytes": 4_096,
                    "fetch.max.bytes": 4_194_304,
                    "allow.auto.create.topics": False,
                }
            )
        return self._readers[group]

    def _spot(self, partition: Partition, offset: int) -> TopicPartition:
        return TopicPartition(self._cluster.topic(partition.topic), partition.number, offset)


def _time(message: Message) -> datetime:
    _, ms = message.timestamp()
    return datetime.fromtimestamp(ms / 1000, UTC)
