"""The life of a notification: its states, and every move between them.

Move is the one table that says what may happen to a row. The SQL guards, the CHECK constraint,
the fake store and the diagram in the documentation are all derived from it. (The tests are not:
they say by themselves what must come out.)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum
from typing import Self
from uuid import UUID


class State(StrEnum):
    """Where a notification stands."""

    CREATED = "created"  # stored; waits for a deliverer
    CLAIMED = "claimed"  # held by one deliverer for one attempt
    SENDING = "sending"  # taken by the provider; waits for its receipt
    SENT = "sent"  # taken by a provider that gives no receipt
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    TEMPORARY_FAILURE = "temporary-failure"
    PERMANENT_FAILURE = "permanent-failure"
    TECHNICAL_FAILURE = "technical-failure"
    PROVIDER_FAILURE = "provider-failure"


OPEN = frozenset({State.CREATED, State.CLAIMED, State.SENDING})
"""States no row may rest in: each has a time by which it must have been left."""


class Guard(Enum):
    """What must hold besides the state, over a row's attempt `n` and a report's `r`."""

    # fmt: off
    FREE  = "true",                    lambda *_: True
    SAME  = "n.attempt = r.attempt",   lambda n, r: n == r  # shuts out who lost its claim
    LATER = "n.attempt < r.attempt",   lambda n, r: n < r   # Postgres has lost that claim
    LAST  = "n.attempt <= r.attempt",  lambda n, r: n <= r  # no later attempt is known
    DUE   = "coalesce(n.not_before <= now(), true)", lambda *_: True  # the fakes have no time
    # fmt: on

    def __init__(self, sql: str, holds: Callable[[int, int], bool]) -> None:
        self.sql = sql
        self.holds = holds


FREE, SAME, LATER, LAST, DUE = Guard

# A receipt proves that it was sent, whatever its row has lost or was told since. Of the technical
# failures this means `abandoned` and `expired`; `unsendable` is let in with them, which saves a
# column: its own attempt has no receipt, and one of an earlier attempt tells the truth.
UNDERWAY = "created claimed sending sent temporary-failure technical-failure"
# No attempt follows a failure that the provider reported: these were expired or cancelled by a
# Postgres that had lost the claim.
STARTABLE = "created claimed technical-failure cancelled"
ANSWERED = f"{UNDERWAY} delivered"


class Move(StrEnum):
    """Every way for a row to change its state: from where, to where, on whose word, and when.

    After a move the row's attempt is the higher one of its own and the report's.
    """

    before: frozenset[State]
    after: State
    by: str
    guard: Guard

    def __new__(cls, name: str, before: str, after: State, by: str, guard: Guard) -> Self:
        move = str.__new__(cls, name)
        move._value_ = name
        move.before, move.after = frozenset(map(State, before.split())), after
        move.by, move.guard = by, guard
        return move

    # The deliverer's `sent` asks for LAST only because the receipts' does: its own `started` stands
    # before it in its partition, so it never meets a row of an earlier attempt.
    # fmt: off
    #             name           from               to                       on whose word  when
    SAVED       = "saved",       "",                State.CREATED,           "inbox",       FREE
    CLAIMED     = "claimed",     "created",         State.CLAIMED,           "claim",       DUE
    STARTED     = "started",     STARTABLE,         State.CLAIMED,           "deliverer",   LATER
    UNKNOWN     = "unknown",     "claimed",         State.CLAIMED,           "deliverer",   SAME
    SENT        = "sent",        "created claimed", State.SENDING,           "deliverer",   LAST
    HANDED_OVER = "handed-over", "created claimed", State.SENT,              "deliverer",   SAME
    DEFERRED    = "deferred",    "claimed",         State.CREATED,           "deliverer",   SAME
    REJECTED    = "rejected",    "claimed",         State.PERMANENT_FAILURE, "deliverer",   SAME
    UNSENDABLE  = "unsendable",  "claimed",         State.TECHNICAL_FAILURE, "deliverer",   SAME
    UNSUPPORTED = "unsupported", "claimed",         State.PROVIDER_FAILURE,  "deliverer",   SAME
    FREED       = "freed",       "claimed",         State.CREATED,           "recovery",    SAME
    RESENT      = "resent",      "claimed",         State.CREATED,           "recovery",    SAME
    ABANDONED   = "abandoned",   "claimed",         State.TECHNICAL_FAILURE, "recovery",    SAME
    UNANSWERED  = "unanswered",  "sending",         State.TEMPORARY_FAILURE, "recovery",    FREE
    REDRIVEN    = "redriven",    "technical-failure", State.CREATED,         "recovery",    SAME
    EXPIRED     = "expired",     "created",         State.TECHNICAL_FAILURE, "recovery",    FREE
    CANCELLED   = "cancelled",   "created",         State.CANCELLED,         "recovery",    FREE
    DELIVERED   = "delivered",   UNDERWAY,          State.DELIVERED,         "receipts",    FREE
    DELAYED     = "delayed",     ANSWERED,          State.TEMPORARY_FAILURE, "receipts",    FREE
    BOUNCED     = "bounced",     ANSWERED,          State.PERMANENT_FAILURE, "receipts",    FREE
    OPTED_OUT   = "opted-out",   ANSWERED,          State.TECHNICAL_FAILURE, "receipts",    FREE
    # fmt: on

    def allows(self, state: State, attempt: int, reported: int) -> bool:
        """Tell whether a row in `state`, at `attempt`, may move on a report of an attempt."""
        return state in self.before and self.guard.holds(attempt, reported)

    def condition(self) -> str:
        """Say the same as `allows` in SQL, over a row `n` and a report `r`."""
        return f"n.state IN ({quoted(self.before)}) AND {self.guard.sql}"


class Note(StrEnum):
    """What the timeline shows besides moves; it changes no state."""

    COMPLAINED = "complained"
    IDEMPOTENCY_CONFLICT = "idempotency-conflict"


@dataclass(frozen=True, slots=True)
class Report:
    """One row's move, as somebody asks for it, or a note for its timeline."""

    id: UUID
    attempt: int
    move: Move | Note
    reason: str | None = None
    retry_after: timedelta = timedelta()
    blames: bool = False  # the message: the try counts
    message_id: str | None = None  # the provider's
    response: str | None = None  # the provider's words, shown by the API


REPORTED = tuple(move for move in Move if move.by in {"deliverer", "recovery", "receipts"})
"""The moves that the saver makes on reports; the primary key guards `saved`, the claim itself."""

FENCED = frozenset(move for move in Move if move.guard in {SAME, LAST})
"""A report of one of these that moves nothing came too late, which the timeline shows."""


def shows(move: Move | Note, attempt: int, reported: int) -> bool:
    """Tell whether the timeline shows a report that moved nothing of a row at `attempt`.

    That a message was sent is said twice, by the call and by its receipt: the second says no news.
    """
    return move in FENCED | set(Note) and not (move is Move.SENT and attempt == reported)


def shown() -> str:
    """Say the same in SQL, over a row `n` and a report `r`."""
    names = quoted([*FENCED, *Note])
    return f"r.move IN ({names}) AND NOT (r.move = '{Move.SENT}' AND n.attempt = r.attempt)"


def condition() -> str:
    """Say in SQL which rows `n` move on which reports `r`, for all moves at once."""
    return " OR ".join(f"r.move = '{move}' AND {move.condition()}" for move in REPORTED)


def after() -> str:
    """Give in SQL the state that a report `r` leads to."""
    cases = (f"WHEN '{move}' THEN '{move.after}'" for move in REPORTED)
    return f"CASE r.move {' '.join(cases)} END"


def check() -> str:
    """Give the CHECK constraint of the state column."""
    return f"state IN ({quoted(State)})"


def diagram() -> str:
    """Draw the moves as a Mermaid state diagram."""
    arrows = [
        f"    {before} --> {move.after}: {move} ({move.by})"
        for move in Move
        for before in (sorted(map(str, move.before)) or ["[*]"])
    ]
    # Mermaid takes no dash in a name.
    return "\n".join(["stateDiagram-v2", *arrows, ""]).replace("-failure", "_failure")


def quoted(words: Iterable[str]) -> str:
    """Write words of ours as SQL literals."""
    return ", ".join(f"'{word}'" for word in sorted(words))
