"""Compare Postgres with the provider's ledger after a fault; the checks are the same for each."""

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
    """One line of the provider's ledger."""

    id: str
    to: str
    body: str  # The body's hash.


@dataclass(frozen=True)
class Findings:
    """The ids that each check found; all sets but `explained` must be empty."""

    lost: set[str]  # Answered 201, but there is no row and no alias of a row.
    dead: set[str]  # Answered 201, but dead-lettered although the record was good.
    unsent: set[str]  # Answered 201, but not in the ledger.
    unfinished: set[str]  # Rows that are not in a final state and do not wait for a receipt.
    explained: set[str]  # Booked again; a `resent` event gives the reason for each repetition.
    unexplained: set[str]  # Booked more often than the `resent` events explain.
    twice_to_one: set[tuple[str, str]]  # The same recipient and body under two ids.

    def wrong(self) -> dict[str, int]:
        """Count the ids of each kind of fault; the result is empty if there is no fault."""
        kinds = ("lost", "dead", "unsent", "unfinished", "unexplained", "twice_to_one")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}


def check(
    accepted: Collection[str],
    rows: Mapping[str, str],
    aliases: Mapping[str, str],
    dead: Collection[str],
    ledger: Sequence[Booked],
    resent: Mapping[str, int],
) -> Findings:
    """Run the checks on the `accepted` ids.

    `rows` maps ids to states, `aliases` maps losers of an Idempotency-Key to their winners, and
    `resent` counts the `resent` events of each id.
    """
    ids = {aliases.get(id, id) for id in accepted}
    times = Counter(line.id for line in ledger)
    again = {id for id, count in times.items() if count > 1}
    unexplained = {id for id in again if times[id] > 1 + resent.get(id, 0)}
    of_ids = {id: (to, body) for id, to, body in ledger}
    meant = Counter(of_ids[id] for id in of_ids if id in ids)
    return Findings(
        lost=ids - rows.keys(),
        dead=ids & set(dead),
        unsent=ids - times.keys(),
        unfinished={id for id in ids & rows.keys() if rows[id] not in FINAL_OR_WAITING},
        explained=again - unexplained,
        unexplained=unexplained,
        twice_to_one={mail for mail, count in meant.items() if count > 1},
    )
