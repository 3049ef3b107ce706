"""The table of moves matches the design, and every state can be reached and left."""

from itertools import product

import pytest

from courant import lifecycle
from courant.lifecycle import OPEN, Move, State

# Written out, so that a mistake in the table is not repeated here. For each move: its result, and
# the rows, by state and attempt, on which a report of attempt 2 may make it. Without a number any
# attempt may.
BY_ITS_CLAIM = "claimed 2"
UNDERWAY = "created, claimed, sending, sent, temporary-failure, technical-failure"
ALLOWED = {
    "saved": ("created", ""),
    "idempotency-conflict": ("technical-failure", "created"),
    "claimed": ("claimed", "created"),
    "started": ("claimed", "created 0-1, claimed 0-1, technical-failure 0-1, cancelled 0-1"),
    "unknown": ("claimed", BY_ITS_CLAIM),
    "sent": ("sending", "created 0-2, claimed 0-2"),
    "handed-over": ("sent", "created 2, claimed 2"),
    "deferred": ("created", BY_ITS_CLAIM),
    "rejected": ("permanent-failure", BY_ITS_CLAIM),
    "unsendable": ("technical-failure", BY_ITS_CLAIM),
    "unsupported": ("provider-failure", BY_ITS_CLAIM),
    "freed": ("created", BY_ITS_CLAIM),
    "resent": ("created", BY_ITS_CLAIM),
    "abandoned": ("technical-failure", BY_ITS_CLAIM),
    "unanswered": ("temporary-failure", "sending"),
    "redriven": ("created", "technical-failure 2, permanent-failure 2, provider-failure 2"),
    "expired": ("technical-failure", "created"),
    "cancelled": ("cancelled", "created"),
    "delivered": ("delivered", f"{UNDERWAY}, delivered"),
    "delayed": ("temporary-failure", f"{UNDERWAY}, delivered"),
    "bounced": ("permanent-failure", f"{UNDERWAY}, delivered"),
    "opted-out": ("technical-failure", f"{UNDERWAY}, delivered"),
}
ROWS = list(product(State, range(4)))


@pytest.mark.parametrize("move", Move)
def test_each_move_is_allowed_only_where_the_design_allows_it(move: Move) -> None:
    after, words = ALLOWED[move]
    allowed = set()
    for state, _, attempts in (each.partition(" ") for each in words.split(", ") if each):
        first, _, last = (attempts or "0-3").partition("-")
        allowed |= {(state, n) for n in range(int(first), int(last or first) + 1)}
    assert move.after == after
    assert {(str(state), n) for state, n in ROWS if move.allows(state, n, reported=2)} == allowed


def test_every_state_can_be_reached() -> None:
    reached: set[State] = set()
    while more := {m.after for m in Move if not m.before or m.before & reached} - reached:
        reached |= more
    assert reached == set(State)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_has_a_way_out_that_is_not_open(state: State) -> None:
    ahead = {state}
    while more := {m.after for m in Move if m.before & ahead} - ahead:
        ahead |= more
    assert ahead - OPEN


def test_a_moves_condition_is_sql() -> None:
    assert Move.DEFERRED.condition() == "n.state IN ('claimed') AND n.attempt = r.attempt"


def test_the_diagram_has_every_move() -> None:
    drawn = lifecycle.diagram()
    assert "    [*] --> created: saved (inbox)\n" in drawn
    assert drawn.count(" --> ") == sum(len(move.before) or 1 for move in Move)
