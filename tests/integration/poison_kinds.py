"""Records that cannot be handled: one of each kind, and what is to be said of it."""

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
"""The recipient of all, who must not be read in any reason."""
MIB = 1024 * 1024
INBOX_EMAIL = INBOX.topic(Channel.EMAIL, Lane.NORMAL)
RULED_OUT = "ruled out"
"""A reference that the database refuses until its rule is taken back."""


class Hand:
    """Writes records as the services would, for the demo service of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.known = stack.variables

    def notification(self, **changed: Any) -> Notification:
        """Give a good one, which a change may spoil."""
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


def inbox(told: Notification, **changed: Any) -> Outgoing:
    """Write it as ingest does, with some of its fields changed."""
    value = ENCODE({**msgspec.to_builtins(told), **changed})
    return Outgoing(INBOX.topic(told.channel, told.lane), told.id.bytes, value)


@dataclass
class Poison:
    """A record that cannot be handled, and what is said of it."""

    record: Outgoing
    family: str  # where its letter lies
    reason: str  # a part of it
    id: UUID | None = None  # of its row, where it has one
    end: str = "dead"  # of its row, after the repair; else it is dead again


def made(hand: Hand, stranger: UUID, lost: Notification, stored: UUID) -> dict[str, Poison]:
    """Make one of each kind."""

    def raw(value: bytes, topic: str = INBOX_EMAIL) -> Outgoing:
        return Outgoing(topic, uuid4().bytes, value)

    def spoilt(reason: str, **changed: Any) -> Poison:
        return Poison(inbox(hand.notification(), **changed), "inbox", reason)

    now, day = datetime.now(UTC), timedelta(days=1)
    wrong_key = inbox(hand.notification())
    elsewhere = inbox(hand.notification())
    unsealable, unknown = hand.notification(sealed=b"\x011" + bytes(60)), hand.notification()
    unknown = msgspec.structs.replace(unknown, template_id=stranger)
    call, attempt = uuid4(), Attempt(id=lost.id, attempt=1)
    accepted = AttemptOutcome(id=lost.id, attempt=1, outcome=Outcome.ACCEPTED, message_id="m-1")
    began = Started(call=call, attempts=(attempt,))
    ended = Outcomes(call=uuid4(), answers=(accepted,))
    receipt = Receipt(id=lost.id, attempt=1, says=ReceiptKind.DELIVERED, message_id="m-1")
    refused = hand.notification(reference=RULED_OUT)
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
            inbox(hand.notification(id=ids.new(now - 40 * day))), "inbox", "id: its day is too far"
        ),
        "an id far ahead": Poison(
            inbox(hand.notification(id=ids.new(now + 40 * day))), "inbox", "id: its day is too far"
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
