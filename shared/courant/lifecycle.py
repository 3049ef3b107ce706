"""The states of a notification, and every move between them.

`Move` is the only table of what may happen to a row. The SQL guards, the CHECK constraint, the fake
store and the documentation's diagram are derived from it. The tests are not: they state the
expected results themselves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Self
from uuid import UUID

VALID_HOURS = 72
GIVEN_UP = timedelta(hours=VALID_HOURS)
"""How long a notification may wait to be sent, and then for its receipt."""


class State(StrEnum):
    """The state of a notification."""

    CREATED = "created"  # stored; waits for a deliverer
    CLAIMED = "claimed"  # held by one deliverer for one attempt
    SENDING = "sending"  # accepted by the provider; waits for its receipt
    SENT = "sent"  # accepted by a provider that sends no receipt
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    TEMPORARY_FAILURE = "temporary-failure"
    PERMANENT_FAILURE = "permanent-failure"
    TECHNICAL_FAILURE = "technical-failure"
    PROVIDER_FAILURE = "provider-failure"


OPEN = frozenset({State.CREATED, State.CLAIMED, State.SENDING})
"""States that no row stays in for good: each has a time by which the row must have left it."""


class Guard(Enum):
    """A condition besides the state, on the attempt of a row `n` and of a report `r`."""

    # fmt: off
    FREE  = "true",                    lambda *_: True
    SAME  = "n.attempt = r.attempt",   lambda n, r: n == r  # fences a deliverer that lost its claim
    LATER = "n.attempt < r.attempt",   lambda n, r: n < r   # Postgres has lost that claim
    LAST  = "n.attempt <= r.attempt",  lambda n, r: n <= r  # no later attempt is known
    DUE   = "coalesce(n.not_before <= now(), true)", lambda *_: True  # the fakes have no time
    # fmt: on

    def __init__(self, sql: str, holds: Callable[[int, int], bool]) -> None:
        self.sql = sql
        self.holds = holds


FREE, SAME, LATER, LAST, DUE = Guard

# A receipt proves that the message was sent, whatever became of its row since. Of the technical
# failures this concerns `abandoned` and `expired`. `unsendable` is allowed too, which saves a
# column: its own attempt has no receipt, and a receipt of an earlier attempt is true.
UNDERWAY = "created claimed sending sent temporary-failure technical-failure"
# No attempt starts after a failure that the provider reported. A technical failure or a cancelled
# row is here because a Postgres that had lost the claim expired or cancelled it.
STARTABLE = "created claimed technical-failure cancelled"
ANSWERED = f"{UNDERWAY} delivered"
# An operator may send back whatever failed through a fault of ours, by whatever name it failed.
FAILED = "technical-failure permanent-failure provider-failure"


class Move(StrEnum):
    """Every way for a row to change its state: from, to, who may report it, and under which guard.

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

    # A receipt must besides not be `outdated`. `delivered` is a move from `delivered` too, so that
    # the row knows the time of the later one.
    # `sent` has the guard LAST because receipts report it too. The deliverer alone could have SAME:
    # its own `started` is earlier in the partition, so its `sent` never finds an earlier attempt.
    # fmt: off
    #             name           from               to                       reported by    guard
    SAVED       = "saved",       "",                State.CREATED,           "inbox",       FREE
    CONFLICTED  = "idempotency-conflict", "created", State.TECHNICAL_FAILURE, "inbox",      FREE
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
    REDRIVEN    = "redriven",    FAILED,            State.CREATED,           "recovery",    SAME
    EXPIRED     = "expired",     "created",         State.TECHNICAL_FAILURE, "recovery",    FREE
    CANCELLED   = "cancelled",   "created",         State.CANCELLED,         "recovery",    FREE
    DELIVERED   = "delivered",   ANSWERED,          State.DELIVERED,         "receipts",    FREE
    DELAYED     = "delayed",     ANSWERED,          State.TEMPORARY_FAILURE, "receipts",    FREE
    BOUNCED     = "bounced",     ANSWERED,          State.PERMANENT_FAILURE, "receipts",    FREE
    OPTED_OUT   = "opted-out",   ANSWERED,          State.TECHNICAL_FAILURE, "receipts",    FREE
    # fmt: on

    def allows(self, state: State, attempt: int, reported: int) -> bool:
        """Return whether a row in `state`, at `attempt`, may move on a report of an attempt."""
        return state in self.before and self.guard.holds(attempt, reported)

    def condition(self) -> str:
        """Return `allows` as an SQL condition on a row `n` and a report `r`."""
        return f"n.state IN ({quoted(self.before)}) AND {self.guard.sql}"


class Note(StrEnum):
    """An event that the timeline shows besides moves. It changes no state."""

    COMPLAINED = "complained"


@dataclass(frozen=True, slots=True)
class Report:
    """A move that is requested for one row, or a note for its timeline."""

    id: UUID
    attempt: int
    move: Move | Note
    reason: str | None = None
    retry_after: timedelta = timedelta()
    blames: bool = False  # the message is to blame, so that the try counts
    message_id: str | None = None  # the provider's
    response: str | None = None  # in the provider's words, shown by the API
    happened_at: datetime | None = None  # by the provider's clock, if a receipt says this
    weak: bool = False  # a receipt that neither outdates another one nor holds against one

    @property
    def judged_at(self) -> datetime | None:
        """Return the time at which this counts beside other receipts; None if it is no receipt."""
        return BEGINNING if self.happened_at and self.weak else self.happened_at


BEGINNING = datetime.min.replace(tzinfo=UTC)
RANKS = {Move.DELIVERED: 1, Move.DELAYED: 2, Move.OPTED_OUT: 3, Move.BOUNCED: 4}
"""The receipts that set a state. Of two with the same time, the one of the higher rank counts."""
STATE_RANKS = {move.after: rank for move, rank in RANKS.items()}
ABOVE = 5
"""The rank of other states. A row that was sent again since has counted everything of this time."""


def outdated(report: Report, state: State, receipt_at: datetime | None) -> bool:
    """Return whether the row has heard of something later than what this receipt says.

    `receipt_at` is the time of the receipt that counts for the row. Receipts come in any order and
    more than once, and every order must end in the same state: that of the latest receipt. A
    permanent failure is final whatever its time, because a delivery after it is ignored too.
    """
    if report.judged_at is None or receipt_at is None:
        return False
    if report.move is Move.BOUNCED and state in STATE_RANKS:
        return False
    rank = RANKS.get(report.move, 0) if isinstance(report.move, Move) else 0
    return (report.judged_at, rank) <= (receipt_at, STATE_RANKS.get(state, ABOVE))


def sql_outdated() -> str:
    """Return `outdated` as an SQL condition on a row `n` and a report `r`; unknown means no."""
    ranks = " ".join(f"WHEN '{move}' THEN {rank}" for move, rank in RANKS.items())
    states = " ".join(f"WHEN '{state}' THEN {rank}" for state, rank in STATE_RANKS.items())
    return (
        f"NOT (r.move = '{Move.BOUNCED}' AND n.state IN ({quoted(STATE_RANKS)})) "
        f"AND ({sql_judged_at()}, CASE r.move {ranks} ELSE 0 END) "
        f"<= (n.receipt_at, CASE n.state {states} ELSE {ABOVE} END)"
    )


def sql_judged_at() -> str:
    """Return `Report.judged_at` as an SQL expression on a report `r`."""
    return (
        "CASE WHEN r.happened_at IS NOT NULL AND r.weak "
        f"THEN timestamptz '{BEGINNING.isoformat()}' ELSE r.happened_at END"
    )


REPORTED = tuple(move for move in Move if move.by in {"deliverer", "recovery", "receipts"})
"""The moves that the saver makes on reports. The primary key guards `saved`; the claim's own
statement guards `claimed`."""

FENCED = frozenset(move for move in Move if move.guard in {SAME, LAST})
"""A report of one of these that moves no row came too late. The timeline shows such a report."""


def shows(report: Report, attempt: int) -> bool:
    """Return whether the timeline shows a report that did not move its row, which is at `attempt`.

    That a message was sent is reported twice, by the call and by its receipt. The second report is
    not shown. A receipt whose time is known is shown; the store leaves out one that it has already.
    """
    if report.move in RANKS:
        return report.happened_at is not None
    twice = report.move is Move.SENT and attempt == report.attempt
    return report.move in FENCED | set(Note) and not twice


def shown() -> str:
    """Return `shows` as an SQL condition on a row `n` and a report `r`."""
    names = quoted([*FENCED, *Note])
    return (
        f"(r.move IN ({names}) AND NOT (r.move = '{Move.SENT}' AND n.attempt = r.attempt) "
        f"OR r.move IN ({quoted(RANKS)}) AND r.happened_at IS NOT NULL)"
    )


def condition() -> str:
    """Return an SQL condition for all moves: whether a row `n` moves on a report `r`."""
    return " OR ".join(f"r.move = '{move}' AND {move.condition()}" for move in REPORTED)


def after() -> str:
    """Return an SQL expression for the state that a report `r` leads to."""
    cases = (f"WHEN '{move}' THEN '{move.after}'" for move in REPORTED)
    return f"CASE r.move {' '.join(cases)} END"


def check() -> str:
    """Return the CHECK constraint of the state column."""
    return f"state IN ({quoted(State)})"


def diagram() -> str:
    """Return the moves as a Mermaid state diagram."""
    arrows = [
        f"    {before} --> {move.after}: {move} ({move.by})"
        for move in Move
        for before in (sorted(map(str, move.before)) or ["[*]"])
    ]
    # Mermaid allows no dash in a name.
    return "\n".join(["stateDiagram-v2", *arrows, ""]).replace("-failure", "_failure")


def quoted(words: Iterable[str]) -> str:
    """Return words as SQL literals, sorted. It escapes nothing: the words must be our own."""
    return ", ".join(f"'{word}'" for word in sorted(words))
