"""The deliverer's decisions, from values alone: no clock, random numbers, database or network."""

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
"""Entries of one call; SES accepts no more."""
CALL_BYTES_MAX = 900_000
"""Bytes of a call's body; SES accepts 1 MB with an inline template."""
CALL_RATE_WINDOW = timedelta(milliseconds=50)
"""One call may use at most this much of the provider's rate.

A larger call overdraws the bucket and the priority lane waits for it. With a window of 1 s, at 100
emails a second and beside a backlog, a password reset waited 1.2 s.
"""
BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_LONGEST = timedelta(minutes=10)


def read_order(record: Record) -> Verdict[UUID]:
    """Keep an order whose key is the id in its body; every other record is dead."""
    try:
        order = Persisted.decode(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if record.key != order.id.bytes:
        return Dead(record, "key: is not the id")
    return Keep(record, order.id)


def claim_limit(
    rate: float, measured_rate: float, at_once: int, time_for_calls: timedelta, limit: int
) -> int:
    """Return how many rows to claim, so that all of them are sent while the lease lasts.

    That is `at_once` (one full call for each thread), or more if the measured rate of the claim
    before sends more in half of the time for calls. It never exceeds what the provider's `rate`
    allows in that half, nor `limit`.
    """
    half = time_for_calls.total_seconds() / 2
    return max(1, int(min(rate * half, max(at_once, measured_rate * half), limit)))


def entries_max(rate: float, limit: int) -> int:
    """Return how many entries one call may hold; `limit` is what its provider accepts."""
    return max(1, int(min(rate * CALL_RATE_WINDOW.total_seconds(), limit)))


def group_into_calls(entries: Iterable[CallEntry], limit: int) -> list[tuple[CallEntry, ...]]:
    """Group entries into calls of one source and reply-to, up to `limit` and CALL_BYTES_MAX."""
    calls: list[tuple[CallEntry, ...]] = []
    open_groups: dict[tuple[str, str | None], tuple[list[CallEntry], int]] = {}
    for entry in entries:
        key = entry.source, entry.reply_to
        group, size_bytes = open_groups.get(key, ([], 0))
        if group and (len(group) == limit or size_bytes + entry.size_bytes > CALL_BYTES_MAX):
            calls.append(tuple(group))
            group, size_bytes = [], 0
        group.append(entry)
        open_groups[key] = group, size_bytes + entry.size_bytes
    return calls + [tuple(group) for group, _ in open_groups.values()]


def attempt_outcome(row: ClaimedRow, result: FinalOutcome, jitter: float) -> AttemptOutcome:
    """Return the outcome to report for an attempt; `jitter` is from 0 to 1."""
    id, attempt = row.id, row.attempt
    match result:
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
            wait = max(retry_after, backoff(row.tries)) if blames else retry_after
            return AttemptOutcome(
                id=id,
                attempt=attempt,
                outcome=Outcome.DEFERRED,
                reason=reason,
                retry_after=wait * (1 + jitter / 2),
                blames=blames,
            )


def backoff(tries: int) -> timedelta:
    """Return how long a message waits after this many earlier outcomes that blame it."""
    return min(BACKOFF_FIRST * (1 << min(tries, 10)), BACKOFF_LONGEST)


def started(call: Call) -> Outgoing:
    """Build the record which announces that the provider is about to receive these entries."""
    attempts = tuple([Attempt(id=e.row.id, attempt=e.row.attempt) for e in call.entries])
    record = Started(call=call.id, attempts=attempts)
    return Outgoing(DELIVERY.name, call.id.bytes, record.encode())


def finished(call: UUID, answers: Iterable[AttemptOutcome]) -> Outgoing:
    """Build the one record that reports a call's outcomes and closes the call."""
    record = Outcomes(call=call, answers=tuple(answers))
    return Outgoing(DELIVERY.name, call.bytes, record.encode())


def receipts(entries: Iterable[CallEntry], outcomes: Iterable[ProviderOutcome]) -> list[Outgoing]:
    """Build the receipts that came with the answer; only the simulated provider returns them."""
    records = []
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Accepted) and outcome.receipt:
            receipt = Receipt(
                id=entry.row.id,
                attempt=entry.row.attempt,
                says=outcome.receipt,
                message_id=outcome.message_id,
                reason=outcome.reason,
            )
            records.append(Outgoing(RECEIPTS.name, entry.row.id.bytes, receipt.encode()))
    return records


def stat(lane: Lane, sent: int, now: datetime) -> Outgoing:
    """Build the record that counts sent messages for the live figures."""
    return Outgoing(STATS.name, b"sent", Stat(stage="sent", lane=lane, count=sent, at=now).encode())
