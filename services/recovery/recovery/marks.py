"""Marks and the hold after a rebuild: marks prove that everything written before a time is handled.

A mark is a time by Postgres and the ends of the topics, read in this order. So everything that was
written before the time lies before the ends. Two clocks are never compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from courant import metrics
from courant.topics import CHUNKS, JOBS, Positions
from recovery import rules


class Store(Protocol):
    """What marks need of a database."""

    def take_mark(self, ends: Callable[[], Positions]) -> None:
        """Read the time, then call `ends`; keep both unless a hold is later than the time.

        Each topic is marked by itself. A topic that `ends` does not return gets no mark.
        """

    def lift(self, after: timedelta) -> bool:
        """Lift the hold after a rebuild if it is over; return whether it stands.

        It is over when the saver has passed in `delivery` the time when it was raised, and `after`
        beyond that. The hold of the bulk lane is lifted as soon as job-runner has passed in `jobs`
        the time when it was raised.
        """

    def ages(
        self, topics: Sequence[str], positions: Positions | None = None
    ) -> Mapping[str, float]:
        """Return for each topic the age in seconds of the newest time that is passed.

        Everything written before that time is handled. A topic of which none is known is missing.
        """


class Offsets(Protocol):
    """What recovery needs of Kafka."""

    def ends(self, topics: Iterable[str]) -> Positions:
        """Return the end of every partition of the topics that answer.

        A topic of which a partition does not answer is missing. Raises Unavailable if none answers.
        """

    def committed(self, groups: Mapping[str, str]) -> Positions:
        """Return what each topic's group has committed; where it has not, the start of the log.

        A topic that does not answer, or whose group does not, is missing. Raises Unavailable if
        none answers.
        """

    def close(self) -> None:
        """Close the clients; the next call opens them again."""


def take(store: Store, offsets: Offsets) -> None:
    """Take a mark of every topic that answers."""
    store.take_mark(lambda: offsets.ends(rules.MARKED))


def lift(store: Store, lease: timedelta, margin: timedelta) -> bool:
    """Lift the hold after a rebuild if it is over; return whether it stands.

    A lease and a margin after it was raised, no claim from before it can still be alive.
    """
    stands = store.lift(lease + margin)
    metrics.HOLD.set(stands)
    return stands


def show_folded(store: Store) -> None:
    """Set the metric of how many seconds Postgres's own positions are behind."""
    for topic, age in store.ages((*rules.FOLDED, JOBS.name)).items():
        metrics.MARK_AGE.labels("job-runner" if topic == JOBS.name else "saver", topic).set(age)


def show_committed(store: Store, positions: Positions) -> None:
    """Set the metric of how many seconds each group that commits is behind."""
    for topic, age in store.ages(tuple(rules.GROUPS), positions).items():
        service = "job-runner" if topic == CHUNKS.name else "deliverer"
        metrics.MARK_AGE.labels(service, topic).set(age)
