"""What is asked of Postgres and of the provider's ledger after every fault, whatever it was."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FINAL_OR_WAITING = {
    "sending",
    "sent",
    "delivered",
    "temporary-failure",
    "permanent-failure",
    "technical-failure",
    "provider-failure",
    "cancelled",
}


class Booked(NamedTuple):
    """A line of the ledger."""

    id: str
    to: str
    body: str  # its hash


@dataclass(frozen=True)
class Found:
    """The answers, as ids; all but `explained` must be empty."""

    lost: set[str]  # answered 201, and neither a row nor an alias of one
    dead: set[str]  # answered 201, and put aside though nobody planted it
    unsent: set[str]  # answered 201, and not in the ledger
    unfinished: set[str]  # rows that neither ended nor wait for a receipt
    explained: set[str]  # booked again, each time with a `resent` event that says why
    unexplained: set[str]  # booked more often than that
    twice_to_one: set[tuple[str, str]]  # the same recipient and body under two ids

    def wrong(self) -> dict[str, int]:
        """Count what must not be."""
        kinds = ("lost", "dead", "unsent", "unfinished", "unexplained", "twice_to_one")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}


def ask(
    accepted: Collection[str],
    rows: Mapping[str, str],
    aliases: Mapping[str, str],
    dead: Collection[str],
    ledger: Sequence[Booked],
    resent: Mapping[str, int],
) -> Found:
    """Put the questions. `rows` are states by id, `resent` the resends that a timeline tells of."""
    ids = {aliases.get(each, each) for each in accepted}
    times = Counter(each.id for each in ledger)
    again = {id for id, count in times.items() if count > 1}
    unexplained = {id for id in again if times[id] > 1 + resent.get(id, 0)}
    of_ids = {id: (to, body) for id, to, body in ledger}
    meant = Counter(of_ids[id] for id in of_ids if id in ids)
    return Found(
        lost=ids - rows.keys(),
        dead=ids & set(dead),
        unsent=ids - times.keys(),
        unfinished={id for id in ids & rows.keys() if rows[id] not in FINAL_OR_WAITING},
        explained=again - unexplained,
        unexplained=unexplained,
        twice_to_one={each for each, count in meant.items() if count > 1},
    )
