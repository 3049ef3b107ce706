"""Declares every topic family once. The cluster is made to match, and all names are built here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple, TypeAlias
from uuid import UUID


class Channel(StrEnum):
    """How a notification reaches its recipient."""

    EMAIL = "email"
    SMS = "sms"


class Lane(StrEnum):
    """How urgent a notification is. Each lane has its own topics, so bulk never delays priority."""

    PRIORITY = "priority"
    NORMAL = "normal"
    BULK = "bulk"


class Partition(NamedTuple):
    """A partition of a topic. The topic's id changes if the topic is deleted and created again."""

    topic: str
    topic_id: UUID
    number: int


Positions: TypeAlias = Mapping[Partition, int]
"""The offset of the next record to be read, by partition."""


class Folded(NamedTuple):
    """How far Postgres has folded a partition.

    Every record that it folded has an offset below `next` and a broker's time that is not after
    `at`. `at` is None if no time is known.
    """

    next: int
    at: datetime | None = None


DEAD_RETENTION = timedelta(days=30)
DEAD_PARTITIONS = 1
# The most replicas of a service that can share a topic's work. MANY is for topics that grow with
# the number of notifications. A chunk's record stands for hundreds of rows, so FEW is enough.
MANY, FEW = 24, 6


@dataclass(frozen=True, slots=True)
class Family:
    """All topics of one kind of record. They share one dead-letter topic."""

    name: str
    meaning: str  # of a record, for the documentation
    retention: timedelta
    partitions: int = FEW  # the default; COURANT_PARTITIONS sets another number
    fixed: bool = False  # order or co-partitioning relies on the number
    by_lane: bool = False  # one topic for each channel and lane, otherwise a single one
    compacted: bool = False
    consumed: bool = True  # by one of our groups, so that it has dead letters

    def topic(self, channel: Channel, lane: Lane) -> str:
        """Return the name of the topic of one channel and lane."""
        return f"{self.name}.{channel}.{lane}"

    def topics(self, lane: Lane) -> tuple[str, ...]:
        """Return the names of one lane's topics."""
        return tuple(self.topic(channel, lane) for channel in Channel)

    def names(self) -> tuple[str, ...]:
        """Return the name of every topic of the family, without the dead-letter topic."""
        if not self.by_lane:
            return (self.name,)
        return tuple(self.topic(channel, lane) for channel in Channel for lane in Lane)


WEEK = timedelta(days=7)
# After a restore, Postgres is completed from these topics. So they are kept longer than the longest
# schedule (96 h) plus a week, and longer than the age of any backup that anyone would restore.
FORTNIGHT = 2 * WEEK

# fmt: off
INBOX     = Family("inbox",     "a client was answered 201 for this", FORTNIGHT, MANY, by_lane=True)
PERSISTED = Family("persisted", "the row is there: send it",               WEEK, MANY, by_lane=True)
DELIVERY  = Family("delivery",  "started calls, outcomes, recovery's decisions", FORTNIGHT, MANY)
RECEIPTS  = Family("receipts",  "what a provider reports later",         FORTNIGHT, MANY)
JOBS      = Family("jobs",      "chunks of an upload, its seal, commands to its job", FORTNIGHT)
CHUNKS    = Family("chunks",    "make notifications of this chunk",           WEEK)
CALLBACKS = Family("callbacks", "send this to the client's own address",      WEEK)
# Always one partition: with more, neither compaction nor order could be relied on.
DIRECTORY = Family("directory", "services, keys, templates, senders: the last version of each",
                   WEEK, partitions=1, fixed=True, compacted=True, consumed=False)
USAGE     = Family("usage",     "how much each service asked for, by process and tick",
                   timedelta(days=2), partitions=1, fixed=True, compacted=True, consumed=False)
# Faust's changelog has the same number of partitions, and would not grow with this one.
STATS     = Family("stats",     "one small record per batch, for the live figures",
                   timedelta(days=1), partitions=3, fixed=True, consumed=False)
# fmt: on
FAMILIES = (
    INBOX,
    PERSISTED,
    DELIVERY,
    RECEIPTS,
    JOBS,
    CHUNKS,
    CALLBACKS,
    DIRECTORY,
    USAGE,
    STATS,
)


SPARABLE = frozenset(STATS.names())
"""Topics whose records are only for people to look at: no work waits for them, or may fail."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as the cluster should have it."""

    name: str
    partitions: int
    config: Mapping[str, str]


def declared(partitions: Mapping[str, int] | None = None) -> list[Topic]:
    """Return every topic, dead-letter topics included, with the configuration that it must have.

    `partitions` has the numbers that are set, by family; other families have their default.
    """
    counts = partitions or {}
    topics = []
    for family in FAMILIES:
        policy = "compact" if family is DIRECTORY else "compact,delete"
        cleanup = policy if family.compacted else "delete"
        config = _config(family.retention, cleanup)
        count = counts.get(family.name, family.partitions)
        topics += [Topic(name, count, config) for name in family.names()]
        if family.consumed:
            topics.append(Topic(dead(family.name), DEAD_PARTITIONS, _config(DEAD_RETENTION)))
    return topics


def _config(retention: timedelta, cleanup: str = "delete") -> dict[str, str]:
    return {
        "cleanup.policy": cleanup,
        "retention.ms": str(int(retention.total_seconds() * 1000)),
        "retention.bytes": "-1",
        # Kafka drops whole segments. With its default of seven days, a quiet topic would keep its
        # records that much longer than a busy one, and a rebuilt Postgres would find notifications
        # whose outcome is gone.
        "segment.ms": str(int(min(SEGMENT, retention / 2).total_seconds() * 1000)),
        # Only the broker's clock counts: one writer whose clock was five minutes ahead made a
        # search by time skip the records after its own.
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(RECORD_BYTES_MAX),
    }


SEGMENT = timedelta(days=1)
"""How much longer than its retention a record may be kept. A compacted topic is compacted as late.

A topic that keeps its records for a day keeps them half a day longer.
"""

RECORD_BYTES_MAX = 4 * 1024 * 1024
"""Enough for a dead letter of the largest record that anyone may write (2 MiB) with its reasons."""


def partition_counts(text: str) -> dict[str, int]:
    """Return the partitions by family that a text like `inbox=48,jobs=12` sets.

    Raises ValueError for an unknown or fixed family, and for a number that no topic may have.
    """
    settable = {family.name for family in FAMILIES if not family.fixed}
    counts: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = (text.strip() for text in part.partition("="))
        if name not in settable or name in counts or not number.isdecimal():
            raise ValueError(f"{part} is not one of {', '.join(sorted(settable))} with a number")
        counts[name] = int(number)
        if not 1 <= counts[name] <= PARTITIONS_MAX:
            raise ValueError(f"{part} is not from 1 to {PARTITIONS_MAX}")
    return counts


PARTITIONS_MAX = 1_000


def family(topic: str) -> str:
    """Return the name of the family that a topic belongs to."""
    return topic.partition(".")[0]


def dead(topic: str) -> str:
    """Return the name of a topic's dead-letter topic."""
    return f"{family(topic)}.dead"


def group(service: str, family: Family, *lane: Channel | Lane) -> str:
    """Return the name of a consumer group. These names must not change.

    A renamed group would have no committed offsets.
    """
    return ".".join((service, family.name, *lane))


def by_topic(ends: Positions) -> dict[tuple[str, UUID], list[int]]:
    """Return the ends of each topic's partitions, from partition 0 on."""
    numbers: dict[tuple[str, UUID], list[int]] = {}
    for partition in sorted(ends, key=attrgetter("number")):
        numbers.setdefault((partition.topic, partition.topic_id), []).append(ends[partition])
    return numbers
