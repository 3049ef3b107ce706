"""What shows whether Postgres refuses a record for its own values: ordinary ones in their place."""

from datetime import timedelta

import msgspec

from courant.contracts import Decided, Notification, Outcomes, Receipt
from saver.rules import ReportRecord

A_DAY = timedelta(days=1)
HASH = bytes(32)
ORDINARY = "x" * 1000
"""A text that every column for texts must take: of the length that contracts allow."""


def ordinary(notification: Notification) -> Notification:
    """Return an ordinary notification in the place of this one: with no value of its client's.

    Its other values stay, because their contract allows only what every table must take.
    """
    return msgspec.structs.replace(
        notification,
        reference=ORDINARY,
        recipient_hash=HASH,
        sealed=HASH,
        idempotency_key=notification.idempotency_key and HASH,
        body_hash=notification.body_hash and HASH,
    )


def plain(report_record: ReportRecord, text: str | None = None) -> ReportRecord:
    """Return the same reports with this text in the place of every text of a provider's."""
    texts = {"reason": text, "response": text, "message_id": text}
    match report_record:
        case Outcomes():
            answers = tuple(
                msgspec.structs.replace(each, **texts, retry_after=min(each.retry_after, A_DAY))
                for each in report_record.answers
            )
            return msgspec.structs.replace(report_record, answers=answers)
        case Decided():
            return msgspec.structs.replace(report_record, reason=text)
        case Receipt():
            return msgspec.structs.replace(report_record, **texts)
    return report_record
