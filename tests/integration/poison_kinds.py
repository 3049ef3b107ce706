"""One record of each kind that cannot be handled, and the expected reason of its dead letter."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from courant import crypto, ids
from courant.contracts import (
    ENCODE,
    Attempt,
    AttemptOutcome,
    Content,
    KeyType,
    Notification,
    Outcome,
    Outcomes,
    Receipt,
    ReceiptKind,
    Started,
)
from courant.records import Outgoing
from courant.topics import DELIVERY, INBOX, PERSISTED, RECEIPTS, Channel, Lane
from support.stack import Stack

PERSON = "jean.valjean@example.com"
"""The recipient of all records. No reason may contain the address."""
MIB = 1024 * 1024
INBOX_EMAIL = INBOX.topic(Channel.EMAIL, Lane.NORMAL)
RULED_OUT = "ruled out"
"""A reference that the database refuses while the test's constraint exists."""


class NotificationMaker:
    """Creates notifications as ingest would, for the demo service of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.known = stack.variables

    def notification(self, **changed: Any) -> Notification:
        """Return a valid notification with the given fields changed, which may make it invalid."""
        now = datetime.now(UTC)
        id = changed.pop("id", None) or ids.new(now)
        content = ENCODE(Content(to=PERSON, personalisation={"name": "Jean"}))
        good = Notification(
            id=id,
            service_id=UUID(self.known["COURANT_SERVICE_ID"]),
            key_id=uuid4(),
            key_type=KeyType.NORMAL,
            template_id=UUID(self.known["COURANT_EMAIL_TEMPLATE_ID"]),
            template_version=1,
            channel=Channel.EMAIL,
            lane=Lane.NORMAL,
            recipient_hash=crypto.keyed_hash(b"tests", PERSON.encode()),
            sealed=self.stack.installation.ring.encrypt(content, owner=id.bytes),
            accepted_at=now,
        )
        return msgspec.structs.replace(good, **changed)


def inbox(saved: Notification, **changed: Any) -> Outgoing:
    """Return the record that ingest writes for a notification, with some fields changed."""
    value = ENCODE({**msgspec.to_builtins(saved), **changed})
    return Outgoing(INBOX.topic(saved.channel, saved.lane), saved.id.bytes, value)


@dataclass
class Poison:
    """A record that cannot be handled, and the expected dead letter."""

    record: Outgoing
    family: str  # The topic family of its dead letter.
    reason: str  # A part of the dead letter's reason.
    id: UUID | None = None  # Its row's id, if it has a row.
    end: str = "dead"  # Its row's state after the repair; "dead" if it is dead-lettered again.


def poison_of_each_kind(
    maker: NotificationMaker, stranger: UUID, lost: Notification, stored: UUID
) -> dict[str, Poison]:
    """Return one poison of each kind by name."""

    def raw(value: bytes, topic: str = INBOX_EMAIL) -> Outgoing:
        return Outgoing(topic, uuid4().bytes, value)

    def spoilt(reason: str, **changed: Any) -> Poison:
        return Poison(inbox(maker.notification(), **changed), "inbox", reason)

    now, day = datetime.now(UTC), timedelta(days=1)
    wrong_key = inbox(maker.notification())
    elsewhere = inbox(maker.notification())
    unsealable, unknown = maker.notification(sealed=b"\x011" + bytes(60)), maker.notification()
    unknown = msgspec.structs.replace(unknown, template_id=stranger)
    call, attempt = uuid4(), Attempt(id=lost.id, attempt=1)
    accepted = AttemptOutcome(id=lost.id, attempt=1, outcome=Outcome.ACCEPTED, message_id="m-1")
    began = Started(call=call, attempts=(attempt,))
    ended = Outcomes(call=uuid4(), answers=(accepted,))
    receipt = Receipt(id=lost.id, attempt=1, says=ReceiptKind.DELIVERED, message_id="m-1")
    refused = maker.notification(reference=RULED_OUT)
    unstored = "id: no row has it, nor will one"
    return {
        "not JSON": Poison(raw(f"to {PERSON}".encode()), "inbox", "JSON is malformed"),
        "empty": Poison(raw(b""), "inbox", "Input data was truncated"),
        "not UTF-8": Poison(raw(b'{"id": "\xff\xfe"}'), "inbox", "Invalid UUID"),
        "deep": Poison(raw(b'{"x": ' + b"[" * 100_000), "inbox", "recursion"),
        "a later contract": spoilt("newer than this reader", readable_from=2),
        "a field of another type": spoilt("$.reference", reference={"to": PERSON}),
        "an unknown word": spoilt("Invalid enum value - at `$.lane`", lane=PERSON),
        "the wrong key": Poison(
            Outgoing(wrong_key.topic, uuid4().bytes, wrong_key.value), "inbox", "key: is not the id"
        ),
        "the wrong topic": Poison(
            Outgoing(INBOX.topic(Channel.SMS, Lane.BULK), elsewhere.key, elsewhere.value),
            "inbox",
            "topic: is not the notification's channel and lane",
        ),
        "NUL in a text": spoilt(
            "22021: CharacterNotInRepertoire: refused by the database", reference=f"\0{PERSON}"
        ),
        "a row that the database's owner rules out": Poison(
            inbox(refused), "inbox", "23514: CheckViolation: refused by the database", refused.id,
            "delivered",
        ),
        "2 MiB": Poison(raw(b'{"id": "' + b"\x80" * 2 * MIB), "inbox", "was truncated"),
        "more than anyone may write": Poison(raw(b"0" * 5 * MIB), "inbox", "JSON is malformed"),
        "an id long past": Poison(
            inbox(maker.notification(id=ids.new(now - 40 * day))), "inbox", "id: its day is too far"
        ),
        "an id far ahead": Poison(
            inbox(maker.notification(id=ids.new(now + 40 * day))), "inbox", "id: its day is too far"
        ),
        "an unknown template": Poison(
            inbox(unknown), "persisted", "template: is not in the directory", unknown.id,
            "delivered",
        ),
        "unsealable content": Poison(
            inbox(unsealable), "persisted", "sealed: does not open", unsealable.id
        ),
        "an order of another key": Poison(
            raw(ENCODE({"id": uuid4()}), PERSISTED.topic(Channel.SMS, Lane.BULK)),
            "persisted",
            "key: is not the id",
        ),
        "a call of no row": Poison(
            Outgoing(DELIVERY.name, call.bytes, began.encode()), "delivery", unstored, lost.id,
            "delivered",
        ),
        "an outcome of no row": Poison(
            Outgoing(DELIVERY.name, ended.call.bytes, ended.encode()), "delivery", unstored,
            lost.id, "delivered",
        ),
        "a receipt of no row": Poison(
            Outgoing(RECEIPTS.name, lost.id.bytes, receipt.encode()), "receipts", unstored, lost.id,
            "delivered",
        ),
        "a move that is not recovery's": Poison(
            raw(ENCODE({"kind": "decided", "id": uuid4(), "attempt": 1, "move": "delivered"}),
                DELIVERY.name),
            "delivery",
            "move: delivered is not for recovery to decide",
        ),
        "a receipt with NUL": Poison(
            raw(ENCODE({"kind": "receipt", "id": stored, "attempt": 1, "says": "sent",
                        "response": f"\0{PERSON}"}), RECEIPTS.name),
            "receipts",
            "22P05",
        ),
    }  # fmt: skip
