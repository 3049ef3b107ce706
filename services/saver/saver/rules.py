"""The saver's decisions, from records alone: no clock, no database, no network."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from courant import ids, topics
from courant.contracts import (
    Attempt,
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
    UnreadPost,
    UntaggedReceipt,
    decode_delivery,
    decode_receipt,
)
from courant.lifecycle import GIVEN_UP, Move, Note, Report
from courant.records import Dead, Keep, Outgoing, Record, Verdict
from courant.topics import Positions

ReportRecord: TypeAlias = Delivery | Receipt | UntaggedReceipt | Heartbeat

DAYS = range(-15, 3)
"""How many days an id may lie from its record's day: days that have or may get a partition."""

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
    """Keep a notification if its body agrees with the record's key and topic."""
    try:
        notification = Notification.decode(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if record.key != notification.id.bytes:
        return Dead(record, "key: is not the id")
    if record.partition.topic != topics.INBOX.topic(notification.channel, notification.lane):
        return Dead(record, "topic: is not the notification's channel and lane")
    # Compared with the record's time, not the clock, so that reading the record again next week
    # gives the same verdict.
    if ids.day_of(notification.id) - ids.day_at(record.timestamp) not in DAYS:
        return Dead(record, "id: its day is too far from the record's")
    return Keep(record, notification)


def read_delivery(record: Record) -> Verdict[ReportRecord]:
    """Keep the deliverer's reports, and recovery's decisions if recovery may make that move."""
    try:
        report_record = decode_delivery(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if isinstance(report_record, Decided) and report_record.move.by != "recovery":
        return Dead(record, f"move: {report_record.move} is not for recovery to decide")
    return Keep(record, report_record)


def read_receipt(record: Record) -> Verdict[ReportRecord]:
    """Keep a provider's receipt or a heartbeat; a post that no service can use is a dead letter.

    A receipt without the time of its event, as earlier versions wrote it, counts from when it came.
    That is the broker's time, so that reading the record again next week gives the same verdict.
    """
    try:
        receipt = decode_receipt(record.value)
    except Malformed as error:
        return Dead(record, str(error))
    if isinstance(receipt, UnreadPost):
        return Dead(record, receipt.reason)
    if isinstance(receipt, Receipt) and receipt.happened_at is None:
        receipt = msgspec.structs.replace(receipt, happened_at=record.timestamp)
    return Keep(record, receipt)


def order(notification: Notification) -> Outgoing:
    """Return the order to send a stored notification."""
    topic = topics.PERSISTED.topic(notification.channel, notification.lane)
    return Outgoing(topic, notification.id.bytes, Persisted(id=notification.id).encode())


def orders(waiting: Iterable[Notification], now: datetime) -> list[Outgoing]:
    """Return the orders to send stored notifications that wait for their first attempt.

    A notification whose time has not come is ordered by recovery's sweep `due` when it has. One
    that has waited too long is not ordered: `expired` gives it up. A wrong clock costs a delay
    only, because the sweeps and the claim go by Postgres's clock.
    """
    return [
        order(each)
        for each in waiting
        if (each.scheduled_for is None or each.scheduled_for <= now)
        and now - (each.scheduled_for or each.accepted_at) < GIVEN_UP
    ]


def reports(report_record: ReportRecord) -> list[Report]:
    """Return the moves that a record reports, one for each row."""
    match report_record:
        case Started():
            return [Report(each.id, each.attempt, Move.STARTED) for each in report_record.attempts]
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
                for each in report_record.answers
            ]
        case Decided():
            return [
                Report(
                    report_record.id,
                    report_record.attempt,
                    report_record.move,
                    report_record.reason,
                )
            ]
        case Receipt():
            return [
                Report(
                    id=report_record.id,
                    attempt=report_record.attempt,
                    move=RECEIPT_MOVES[report_record.says],
                    reason=report_record.reason,
                    message_id=report_record.message_id,
                    response=report_record.response,
                    happened_at=report_record.happened_at,
                    weak=report_record.weak,
                )
            ]
        case UntaggedReceipt() | Heartbeat():
            return []


def untagged(kept: Iterable[Keep[ReportRecord]]) -> list[Keep[UntaggedReceipt]]:
    """Return the receipts that name no notification."""
    return [
        Keep(each.record, each.value) for each in kept if isinstance(each.value, UntaggedReceipt)
    ]


def with_rows(
    kept: Iterable[Keep[ReportRecord]], rows: Mapping[str, Attempt]
) -> list[Keep[ReportRecord]]:
    """Return the records with each untagged receipt as that of the row with its message id.

    One that no row has reports on nothing.
    """
    return [
        Keep(each.record, each.value.of(row.id, row.attempt))
        if isinstance(each.value, UntaggedReceipt) and (row := rows.get(each.value.message_id))
        else each
        for each in kept
    ]


def ids_of(report_record: ReportRecord) -> set[UUID]:
    """Return the ids of the rows that a record reports on."""
    return {report.id for report in reports(report_record)}


def split_by_row(
    kept: Sequence[Keep[ReportRecord]], missing: set[UUID]
) -> tuple[list[Keep[ReportRecord]], list[Dead]]:
    """Return the records to fold, and a dead letter for each record that reports on a missing row.

    A call's record may be both: it is folded for its other rows. A record that reports on no row
    at all is folded too, because it closes a call.
    """
    known = [each for each in kept if not ids_of(each.value) or ids_of(each.value) - missing]
    without_row = [each.record for each in kept if ids_of(each.value) & missing]
    return known, [Dead(record, "id: no row has it, nor will one") for record in without_row]


def reports_on(
    kept: Iterable[Keep[ReportRecord]], ids: Collection[UUID]
) -> list[tuple[Record, Report]]:
    """Return the reports on these rows, each with its record, in their order."""
    return [
        (each.record, report)
        for each in kept
        for report in (reports(each.value) if ids else ())
        if report.id in ids
    ]


def split_by_offset(
    kept: Sequence[Keep[ReportRecord]], below: Positions
) -> tuple[list[Keep[ReportRecord]], list[Keep[ReportRecord]]]:
    """Return the records before these offsets, and the others."""
    parts: tuple[list[Keep[ReportRecord]], list[Keep[ReportRecord]]] = [], []
    for each in kept:
        parts[each.record.offset >= below.get(each.record.partition, 0)].append(each)
    return parts


def follow(
    kept: Sequence[Keep[ReportRecord]], winners: Mapping[UUID, UUID]
) -> list[Keep[ReportRecord]]:
    """Return the records with reports on winners instead of the ids that lost a key to them."""
    if not winners:
        return list(kept)
    return [Keep(each.record, of_winner(each.value, winners)) for each in kept]


def of_winner(report_record: ReportRecord, winners: Mapping[UUID, UUID]) -> ReportRecord:
    """Return a record with the ids of winners."""
    new = msgspec.structs.replace
    match report_record:
        case Started(attempts=attempts):
            moved = tuple(new(each, id=winners.get(each.id, each.id)) for each in attempts)
            return new(report_record, attempts=moved)
        case Outcomes(answers=answers):
            moved = tuple(new(each, id=winners.get(each.id, each.id)) for each in answers)
            return new(report_record, answers=moved)
        case Decided(id=id) | Receipt(id=id):
            return new(report_record, id=winners.get(id, id))
        case Heartbeat() | UntaggedReceipt():
            return report_record


def in_rounds(batch: Iterable[ReportRecord], without: Collection[UUID] = ()) -> list[list[Report]]:
    """Return the moves in rounds, without those of some rows.

    A row's nth report is in round n, so no round has it twice.
    """
    rounds: list[list[Report]] = []
    earlier: Counter[UUID] = Counter()
    for report_record in batch:
        for report in reports(report_record):
            if report.id in without:
                continue
            if earlier[report.id] == len(rounds):
                rounds.append([])
            rounds[earlier[report.id]].append(report)
            earlier[report.id] += 1
    return rounds


def receipts_put_off(batch: Iterable[ReportRecord]) -> bool:
    """Return whether one of these records says that ingest had to put off a receipt."""
    return any(isinstance(record, Heartbeat) and record.trouble for record in batch)


def calls_opened(batch: Iterable[ReportRecord]) -> list[Started]:
    """Return the calls that these records open."""
    return [report_record for report_record in batch if isinstance(report_record, Started)]


def calls_closed(batch: Iterable[ReportRecord]) -> list[UUID]:
    """Return the ids of the calls that these records close.

    A call with an unknown outcome stays open. Otherwise its row would look as if it had never been
    sent, and would be sent again at once. The call's other entries do no harm, because a row's open
    call is one with both its id and its attempt.
    """
    ended = [report_record for report_record in batch if isinstance(report_record, Outcomes)]
    return [
        report_record.call
        for report_record in ended
        if all(each.outcome is not Outcome.UNKNOWN for each in report_record.answers)
    ]
