"""What the saver decides, given records alone. No clock, no database, no network."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from courant import ids, topics
from courant.contracts import (
    Decided,
    Delivery,
    Heartbeat,
    Malformed,
    Notification,
    Outcome,
    Outcomes,
    Persisted,
    Receipt,
    ReceiptKind,
    Started,
    decode_delivery,
    decode_receipt,
)
from courant.lifecycle import Move, Note, Report
from courant.records import Dead, Keep, Outgoing, Record, Verdict

ReportRecord: TypeAlias = Delivery | Receipt | Heartbeat

DAYS = range(-15, 3)
"""How far an id's day may lie from its record's: the days that have, or may get, a partition."""

OUTCOME_MOVES = {
    Outcome.ACCEPTED: Move.SENT,
    Outcome.HANDED_OVER: Move.HANDED_OVER,
    Outcome.DEFERRED: Move.DEFERRED,
    Outcome.REJECTED: Move.REJECTED,
    Outcome.UNSENDABLE: Move.UNSENDABLE,
    Outcome.UNSUPPORTED: Move.UNSUPPORTED,
    Outcome.UNKNOWN: Move.UNKNOWN,
}


RECEIPT_MOVES: dict[ReceiptKind, Move | Note] = {
    ReceiptKind.SENT: Move.SENT,
    ReceiptKind.DELIVERED: Move.DELIVERED,
    ReceiptKind.DELAYED: Move.DELAYED,
    ReceiptKind.BOUNCED: Move.BOUNCED,
    ReceiptKind.OPTED_OUT: Move.OPTED_OUT,
    ReceiptKind.COMPLAINED: Note.COMPLAINED,
}


def read_inbox(record: Record) -> Verdict[Notification]:
    """Keep a notification that says the same in its body, its key and its topic."""
    try:
        notification = Notification.decode(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if record.key != notification.id.bytes:
        return Dead(record, "key: is not the id")
    if record.partition.topic != topics.INBOX.topic(notification.channel, notification.lane):
        return Dead(record, "topic: is not the notification's channel and lane")
    # Against the record's time, not ours: a record that is read again next week is judged the same.
    if ids.day_of(notification.id) - ids.day_at(record.timestamp) not in DAYS:
        return Dead(record, "id: its day is too far from the record's")
    return Keep(record, notification)


def read_delivery(record: Record) -> Verdict[ReportRecord]:
    """Keep what the deliverer reports, and those decisions that are recovery's to make."""
    try:
        told = decode_delivery(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if isinstance(told, Decided) and told.move.by != "recovery":
        return Dead(record, f"move: {told.move} is not for recovery to decide")
    return Keep(record, told)


def read_receipt(record: Record) -> Verdict[ReportRecord]:
    """Keep what a provider says."""
    try:
        return Keep(record, decode_receipt(record.value))
    except Malformed as error:
        return Dead(record, str(error))


def order(notification: Notification) -> Outgoing:
    """Order to send a notification that is stored."""
    topic = topics.PERSISTED.topic(notification.channel, notification.lane)
    return Outgoing(topic, notification.id.bytes, Persisted(id=notification.id).encode())


def reports(told: ReportRecord) -> list[Report]:
    """Name the moves that a record asks for."""
    match told:
        case Started():
            return [Report(each.id, each.attempt, Move.STARTED) for each in told.attempts]
        case Outcomes():
            return [
                Report(
                    id=each.id,
                    attempt=each.attempt,
                    move=OUTCOME_MOVES[each.outcome],
                    reason=each.reason,
                    retry_after=each.retry_after,
                    blames=each.blames,
                    message_id=each.message_id,
                    response=each.response,
                )
                for each in told.answers
            ]
        case Decided():
            return [Report(told.id, told.attempt, told.move, told.reason)]
        case Receipt():
            return [
                Report(
                    id=told.id,
                    attempt=told.attempt,
                    move=RECEIPT_MOVES[told.says],
                    reason=told.reason,
                    message_id=told.message_id,
                    response=told.response,
                )
            ]
        case Heartbeat():
            return []


def ids_of(told: ReportRecord) -> set[UUID]:
    """Name the rows that a record tells of."""
    return {report.id for report in reports(told)}


def split_by_row(
    kept: Sequence[Keep[ReportRecord]], missing: set[UUID]
) -> tuple[list[Keep[ReportRecord]], list[Dead]]:
    """Give those that tell of some row, and as dead those that tell of one that is missing.

    A call's record may be both: what it says of the others holds. One that tells of no row at all
    is known too: it closes a call.
    """
    known = [each for each in kept if not ids_of(each.value) or ids_of(each.value) - missing]
    strange = [each.record for each in kept if ids_of(each.value) & missing]
    return known, [Dead(record, "id: no row has it, nor will one") for record in strange]


def in_rounds(batch: Iterable[ReportRecord]) -> list[list[Report]]:
    """Give the moves in rounds: each row once in a round, its nth report in the nth."""
    rounds: list[list[Report]] = []
    earlier: Counter[UUID] = Counter()
    for told in batch:
        for report in reports(told):
            if earlier[report.id] == len(rounds):
                rounds.append([])
            rounds[earlier[report.id]].append(report)
            earlier[report.id] += 1
    return rounds


def calls_opened(batch: Iterable[ReportRecord]) -> list[Started]:
    """Give the calls that begin here."""
    return [told for told in batch if isinstance(told, Started)]


def calls_closed(batch: Iterable[ReportRecord]) -> list[UUID]:
    """Name the calls that end here. One with an unknown outcome does not.

    Its row would look as if it had never been sent, and be sent again at once. The others' entries
    harm nobody: a row's open call is one with its id and its attempt.
    """
    ended = [told for told in batch if isinstance(told, Outcomes)]
    return [
        told.call
        for told in ended
        if all(each.outcome is not Outcome.UNKNOWN for each in told.answers)
    ]
