"""Every topic family, declared once: the cluster is made to match, names are built here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from uuid import UUID


class Channel(StrEnum):
    """How a notification reaches its recipient."""

    EMAIL = "email"
    SMS = "sms"


class Lane(StrEnum):
    """How urgent it is: a lane is a topic, so that bulk never stands in front of priority."""

    PRIORITY = "priority"
    NORMAL = "normal"
    BULK = "bulk"


class Partition(NamedTuple):
    """A partition of a topic. A topic that is made anew has the old name and another id."""

    topic: str
    topic_id: UUID
    number: int


Positions: TypeAlias = Mapping[Partition, int]
"""The offset of the next record to be read, by partition."""

DEAD_RETENTION = timedelta(days=30)
DEAD_PARTITIONS = 1
# As many as the most replicas of a service that share a topic's work. MANY for what grows with the
# number of notifications; a chunk's record stands for hundreds of rows.
MANY, FEW = 24, 6


@dataclass(frozen=True, slots=True)
class Family:
    """Topics of one kind of record, with one dead-letter topic for all of them."""

    name: str
    meaning: str  # what a record in it means, for the documentation
    retention: timedelta
    partitions: int = FEW  # by default; COURANT_PARTITIONS sets another number
    fixed: bool = False  # order or co-partitioning relies on the number
    by_lane: bool = False  # one topic for each channel and lane, or a single one
    compacted: bool = False
    consumed: bool = True  # by a group, so that it has dead letters

    def topic(self, channel: Channel, lane: Lane) -> str:
        """Name the topic of one channel and lane."""
        return f"{self.name}.{channel}.{lane}"

    def topics(self, lane: Lane) -> tuple[str, ...]:
        """Name the topics of one lane."""
        return tuple(self.topic(channel, lane) for channel in Channel)

    def names(self) -> tuple[str, ...]:
        """Name every topic of the family, dead letters apart."""
        if not self.by_lane:
            return (self.name,)
        return tuple(self.topic(channel, lane) for channel in Channel for lane in Lane)


WEEK = timedelta(days=7)
# Fourteen days exceed the longest schedule, 96 h, by a week, and the oldest backup that anyone
# would put back: from what is kept here Postgres is made whole again.
FORTNIGHT = 2 * WEEK

# fmt: off
INBOX     = Family("inbox",     "a client was answered 201 for this", FORTNIGHT, MANY, by_lane=True)
PERSISTED = Family("persisted", "the row is there: send it",               WEEK, MANY, by_lane=True)
DELIVERY  = Family("delivery",  "calls that begin, outcomes, decisions", FORTNIGHT, MANY)
RECEIPTS  = Family("receipts",  "what a provider says later",            FORTNIGHT, MANY)
JOBS      = Family("jobs",      "chunks of an upload, and the seals on them", FORTNIGHT)
CHUNKS    = Family("chunks",    "turn this chunk into notifications",         WEEK)
CALLBACKS = Family("callbacks", "tell the client's own address",              WEEK)
# One partition for good: compaction and order could not be relied on with more.
DIRECTORY = Family("directory", "services, keys, templates, senders: the last version of each",
                   WEEK, partitions=1, fixed=True, compacted=True, consumed=False)
USAGE     = Family("usage",     "how much each service asked for, by process and tick",
                   timedelta(days=2), partitions=1, fixed=True, compacted=True, consumed=False)
# Faust's changelog has as many partitions as this, and is not grown with it.
STATS     = Family("stats",     "one small record a batch, for the live figures",
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


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as the cluster should have it."""

    name: str
    partitions: int
    config: Mapping[str, str]


def declared(partitions: Mapping[str, int] | None = None) -> list[Topic]:
    """Return every topic, the dead letters' too, with the configuration it must have.

    `partitions` are those of the families that do not have their default.
    """
    wanted = partitions or {}
    found = []
    for family in FAMILIES:
        policy = "compact" if family is DIRECTORY else "compact,delete"
        cleanup = policy if family.compacted else "delete"
        config = _config(family.retention, cleanup)
        count = wanted.get(family.name, family.partitions)
        found += [Topic(name, count, config) for name in family.names()]
        if family.consumed:
            found.append(Topic(dead(family.name), DEAD_PARTITIONS, _config(DEAD_RETENTION)))
    return found


def _config(retention: timedelta, cleanup: str = "delete") -> dict[str, str]:
    return {
        "cleanup.policy": cleanup,
        "retention.ms": str(int(retention.total_seconds() * 1000)),
        "retention.bytes": "-1",
        # The broker's clock alone: one writer that was five minutes ahead made a search by time
        # pass over what came after it.
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(RECORD_BYTES_MAX),
    }


RECORD_BYTES_MAX = 4 * 1024 * 1024
"""Room for a dead letter of the largest record that anyone may write, 2 MiB, and its reasons."""


def partition_counts(text: str) -> dict[str, int]:
    """Read `inbox=48,jobs=12`; raises ValueError for anything that no topic may have."""
    settable = {each.name for each in FAMILIES if not each.fixed}
    counts: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = (each.strip() for each in part.partition("="))
        if name not in settable or name in counts or not number.isdecimal():
            raise ValueError(f"{part} is not one of {', '.join(sorted(settable))}, and a number")
        counts[name] = int(number)
        if not 1 <= counts[name] <= PARTITIONS_MAX:
            raise ValueError(f"{part} is not from 1 to {PARTITIONS_MAX}")
    return counts


PARTITIONS_MAX = 1_000


def family(topic: str) -> str:
    """Name the family that a topic belongs to."""
    return topic.partition(".")[0]


def dead(topic: str) -> str:
    """Name the dead-letter topic for a topic."""
    return f"{family(topic)}.dead"


def group(service: str, family: Family, *lane: Channel | Lane) -> str:
    """Name a consumer group. Names are API: a renamed group has lost its offsets."""
    return ".".join((service, family.name, *lane))
