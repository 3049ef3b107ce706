"""Marks and the hold: what proves that everything written before a moment is handled.

Postgres's time is read first and the ends of the topics then, so that what was written before the
time lies before the ends. Two clocks are never compared.
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
        """Read the time, then ask for the ends; keep both, if no hold is later than the time."""

    def lift(self, patience: timedelta) -> bool:
        """Lift the hold after a rebuild if the saver has passed in `delivery` its raising and this.

        Tells whether it stands.
        """

    def ages(self, wanted: Sequence[str], places: Positions | None = None) -> Mapping[str, float]:
        """Tell for each topic how many seconds ago that was before which all is handled."""


class Offsets(Protocol):
    """What recovery needs of Kafka."""

    def ends(self, topics: Iterable[str]) -> Positions:
        """Tell where every partition ends that a topic has now; raises Unavailable."""

    def committed(self, groups: Mapping[str, str]) -> Positions:
        """Tell by topic how far its group is, or where its log starts; raises Unavailable."""

    def close(self) -> None:
        """Let go of the broker until it is asked again."""


def take(store: Store, log: Offsets) -> None:
    """Take a mark of all topics."""
    store.take_mark(lambda: log.ends(rules.MARKED))


def lift(store: Store, lease: timedelta, margin: timedelta) -> bool:
    """Lift the hold if it is over; tell whether it stands."""
    stands = store.lift(lease + margin)
    metrics.HOLD.set(stands)
    return stands


def show(store: Store, places: Positions) -> None:
    """Show how far behind each group is, in seconds."""
    for topic, age in store.ages((*rules.FOLDED, JOBS.name)).items():
        metrics.MARK_AGE.labels("job-runner" if topic == JOBS.name else "saver", topic).set(age)
    for topic, age in store.ages(tuple(rules.GROUPS), places).items():
        service = "job-runner" if topic == CHUNKS.name else "deliverer"
        metrics.MARK_AGE.labels(service, topic).set(age)
