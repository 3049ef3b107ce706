"""What the deliverer decides, given values alone. No clock, no chance, no database, no network."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from courant.contracts import (
    Attempt,
    AttemptOutcome,
    Malformed,
    Outcome,
    Outcomes,
    Persisted,
    Receipt,
    Started,
    Stat,
)
from courant.records import Dead, Keep, Outgoing, Record, Verdict
from courant.topics import DELIVERY, RECEIPTS, STATS, Lane
from deliverer.calls import (
    Accepted,
    Call,
    CallEntry,
    ClaimedRow,
    Deferred,
    FinalOutcome,
    ProviderOutcome,
    Rejected,
    Unknown,
)

ENTRIES_MAX = 50
"""In a call; SES takes no more."""
CALL_BYTES_MAX = 900_000
"""Of a call's body; SES takes 1 MB with an inline template."""
CALL_RATE_WINDOW = timedelta(milliseconds=50)
"""A call takes no more than the rate allows in one: what it owes beyond, the priority lane waits
for. With a second's, at 100 a second and beside a backlog, that was 1.2 s of a password reset's."""
BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_LONGEST = timedelta(minutes=10)


def read_order(record: Record) -> Verdict[UUID]:
    """Keep an order that says the same in its body and its key."""
    try:
        order = Persisted.decode(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if record.key != order.id.bytes:
        return Dead(record, "key: is not the id")
    return Keep(record, order.id)


def claim_limit(rate: float, measured_rate: float, at_once: int, room: timedelta, most: int) -> int:
    """Give how many rows to claim: what is surely sent while the lease has room for calls.

    That is what goes out `at_once`, in a call for each thread, or what half of the room is enough
    for at the pace of the claim before; never more than the provider's rate allows in that half.
    """
    half = room.total_seconds() / 2
    return max(1, int(min(rate * half, max(at_once, measured_rate * half), most)))


def entries_max(rate: float, most: int) -> int:
    """Give how many entries a call may take, of the most that its provider does."""
    return max(1, int(min(rate * CALL_RATE_WINDOW.total_seconds(), most)))


def group_into_calls(entries: Iterable[CallEntry], most: int) -> list[tuple[CallEntry, ...]]:
    """Give the entries of each call: those of one source and reply-to, up to a count and a size."""
    calls: list[tuple[CallEntry, ...]] = []
    filling: dict[tuple[str, str | None], tuple[list[CallEntry], int]] = {}
    for each in entries:
        key = each.source, each.reply_to
        taken, size_bytes = filling.get(key, ([], 0))
        if taken and (len(taken) == most or size_bytes + each.size_bytes > CALL_BYTES_MAX):
            calls.append(tuple(taken))
            taken, size_bytes = [], 0
        taken.append(each)
        filling[key] = taken, size_bytes + each.size_bytes
    return calls + [tuple(taken) for taken, _ in filling.values()]


def attempt_outcome(row: ClaimedRow, said: FinalOutcome, jitter: float) -> AttemptOutcome:
    """Say what an attempt came to; `jitter` is from 0 to 1."""
    id, attempt = row.id, row.attempt
    match said:
        case Accepted(message_id, outcome):
            return AttemptOutcome(id=id, attempt=attempt, outcome=outcome, message_id=message_id)
        case Unknown(reason):
            return AttemptOutcome(id=id, attempt=attempt, outcome=Outcome.UNKNOWN, reason=reason)
        case Rejected(reason, outcome, response):
            return AttemptOutcome(
                id=id, attempt=attempt, outcome=outcome, reason=reason, response=response
            )
        case Deferred(reason, blames=True, tries_max=tries_max, final_outcome=final_outcome) if (
            row.tries + 1 >= tries_max
        ):
            return AttemptOutcome(
                id=id, attempt=attempt, outcome=final_outcome, reason=reason, blames=True
            )
        case Deferred(reason, retry_after, blames):
            after = max(retry_after, backoff(row.tries)) if blames else retry_after
            return AttemptOutcome(
                id=id,
                attempt=attempt,
                outcome=Outcome.DEFERRED,
                reason=reason,
                retry_after=after * (1 + jitter / 2),
                blames=blames,
            )


def backoff(tries: int) -> timedelta:
    """Give how long a message waits that was blamed so often before."""
    return min(BACKOFF_FIRST * (1 << min(tries, 10)), BACKOFF_LONGEST)


def started(call: Call) -> Outgoing:
    """Say that the provider is about to hear of these."""
    tried = tuple([Attempt(id=e.row.id, attempt=e.row.attempt) for e in call.entries])
    return Outgoing(DELIVERY.name, call.id.bytes, Started(call=call.id, attempts=tried).encode())


def finished(call: UUID, answers: Iterable[AttemptOutcome]) -> Outgoing:
    """Say what became of them: one record a call."""
    record = Outcomes(call=call, answers=tuple(answers))
    return Outgoing(DELIVERY.name, call.bytes, record.encode())


def receipts(entries: Iterable[CallEntry], said: Iterable[ProviderOutcome]) -> list[Outgoing]:
    """Write the receipts that are known at once: a provider that sends nothing gives them."""
    found = []
    for entry, each in zip(entries, said, strict=True):
        if isinstance(each, Accepted) and each.receipt:
            receipt = Receipt(
                id=entry.row.id,
                attempt=entry.row.attempt,
                says=each.receipt,
                message_id=each.message_id,
                reason=each.reason,
            )
            found.append(Outgoing(RECEIPTS.name, entry.row.id.bytes, receipt.encode()))
    return found


def stat(lane: Lane, sent: int, now: datetime) -> Outgoing:
    """Count what was sent, for the live figures."""
    return Outgoing(STATS.name, b"sent", Stat(stage="sent", lane=lane, count=sent, at=now).encode())
