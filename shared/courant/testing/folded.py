"""How far the Postgres in memory has folded a partition."""

from datetime import datetime
from typing import Protocol

from courant.testing.builders import NOW
from courant.topics import Folded, Partition


class Table(Protocol):
    """The columns of the table `positions`."""

    positions: dict[Partition, int]
    times: dict[Partition, datetime | None]


def own(table: Table, partition: Partition) -> Folded:
    """Return the position under this id of the topic."""
    return Folded(table.positions.get(partition, 0), table.times.get(partition))


def folded(table: Table, partition: Partition) -> Folded:
    """Return the position; that of the former topic if this one was just recreated."""
    if partition in table.positions:
        return own(table, partition)
    same = [each for each in table.positions if each.topic == partition.topic]
    if any(each.topic_id == partition.topic_id for each in same):
        return own(table, partition)
    former = [own(table, each) for each in same if each.number == partition.number]
    return max(former, key=lambda each: each.at or NOW, default=Folded(0))
