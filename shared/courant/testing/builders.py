"""Valid contracts and records for tests, each built from one small number."""

from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID
from zlib import crc32

from courant import ids, topics
from courant.contracts import (
    Attempt,
    AttemptOutcome,
    Contract,
    Decided,
    Heartbeat,
    KeyType,
    Notification,
    Outcome,
    Outcomes,
    Receipt,
    ReceiptKind,
    Started,
    UntaggedReceipt,
)
from courant.lifecycle import Move
from courant.records import Outgoing, Record
from courant.topics import Channel, Lane, Partition

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
INBOX = topics.INBOX.topic(Channel.EMAIL, Lane.NORMAL)
PERSISTED = topics.PERSISTED.topic(Channel.EMAIL, Lane.NORMAL)
DELIVERY = topics.DELIVERY.name
RECEIPTS = topics.RECEIPTS.name


def id_of(number: int) -> UUID:
    """Return an id of the day of NOW, always the same for the same number."""
    return UUID(int=ids.first_of(ids.day_at(NOW)).int + number)


def number_of(id: UUID) -> int:
    """Return the number from which `id_of` built this id."""
    return id.int - id_of(0).int


def notification(number: int, reference: str | None = None) -> Notification:
    """Build a notification."""
    return Notification(
        id=id_of(number),
        service_id=UUID(int=7),
        key_id=UUID(int=8),
        key_type=KeyType.NORMAL,
        template_id=UUID(int=9),
        template_version=3,
        channel=Channel.EMAIL,
        lane=Lane.NORMAL,
        reference=reference,
        recipient_hash=b"\xfe" * 16,
        sealed=b"\x00sealed\xff",
        accepted_at=NOW,
    )


def started(call: int, attempts: dict[int, int]) -> Started:
    """Build the record of a call that is about to be made, from numbers and their attempts."""
    entries = tuple(Attempt(id=id_of(n), attempt=attempt) for n, attempt in attempts.items())
    return Started(call=UUID(int=call), attempts=entries)


def outcomes(call: int, answers: dict[int, tuple[int, str]]) -> Outcomes:
    """Build the record of a call's outcomes, from numbers, their attempts and their outcomes."""
    entries = tuple(
        AttemptOutcome(
            id=id_of(number),
            attempt=attempt,
            outcome=Outcome(outcome),
            message_id=f"message-{number}" if outcome in {"accepted", "handed-over"} else None,
        )
        for number, (attempt, outcome) in answers.items()
    )
    return Outcomes(call=UUID(int=call), answers=entries)


def decided(number: int, move: Move, attempt: int = 1, reason: str | None = None) -> Decided:
    """Build a decision by recovery."""
    return Decided(id=id_of(number), attempt=attempt, move=move, reason=reason)


def receipt(
    number: int, says: str, attempt: int = 1, second: float | None = None, weak: bool = False
) -> Receipt:
    """Build a provider's receipt of something that happened so many seconds after NOW."""
    happened_at = None if second is None else NOW + timedelta(seconds=second)
    return Receipt(
        id=id_of(number),
        attempt=attempt,
        says=ReceiptKind(says),
        happened_at=happened_at,
        weak=weak,
    )


def untagged(message_id: str, says: str, sns_id: str, second: float = 0) -> UntaggedReceipt:
    """Build a receipt that names no notification, only the provider's message id."""
    return UntaggedReceipt(
        message_id=message_id,
        says=ReceiptKind(says),
        sns_id=sns_id,
        happened_at=NOW + timedelta(seconds=second),
    )


@cache
def partition(topic: str, number: int = 0) -> Partition:
    """Return a partition of a topic; the topic's id is the same in every test."""
    return Partition(topic, UUID(int=crc32(topic.encode())), number)


def outgoing(contract: Contract) -> Outgoing:
    """Return the record that the service which owns this contract would write."""
    match contract:
        case Notification():
            return Outgoing(INBOX, contract.id.bytes, contract.encode())
        case Receipt():
            return Outgoing(RECEIPTS, contract.id.bytes, contract.encode())
        case UntaggedReceipt():
            return Outgoing(RECEIPTS, contract.message_id.encode(), contract.encode())
        case Heartbeat():
            return Outgoing(RECEIPTS, b"", contract.encode())
        case Started() | Outcomes():
            return Outgoing(DELIVERY, contract.call.bytes, contract.encode())
        case Decided():
            return Outgoing(DELIVERY, contract.id.bytes, contract.encode())
    raise AssertionError(contract)


def record(contract: Contract, offset: int = 0) -> Record:
    """Return the record that the saver would read for this contract."""
    sent = outgoing(contract)
    return Record(partition(sent.topic), offset, sent.key, sent.value, (), NOW)
