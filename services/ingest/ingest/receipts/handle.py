"""Takes the providers' receipts over HTTP and writes them into `receipts`, which the saver reads.

SNS retries after a 5xx and never after a 4xx. So 403 means forged, 503 means that a dependency is
unavailable, and 200 is answered to everything that needs no retry. A genuine post is answered 200
only when it is a record, or certainly matters to nobody.
"""

import hmac
import logging
import time
from datetime import datetime

import msgspec

from courant import clock, metrics
from courant.contracts import Heartbeat, Malformed, UnreadPost, UntaggedReceipt
from courant.crypto import KeyRing, keyed_hash
from courant.errors import Unavailable
from courant.kafka.async_producer import Inbox
from courant.records import Outgoing
from courant.topics import RECEIPTS
from ingest.http.answers import Answer, error_answer, json_answer, unavailable
from ingest.http.request_log import SparseWarning
from ingest.receipts import events
from ingest.receipts.events import Ignored, ReceiptDetails, Unread
from ingest.receipts.sns import (
    ClockBehind,
    Envelope,
    Forged,
    SignatureVerifier,
    posted_at,
    read_envelope,
)

log = logging.getLogger(__name__)
ACCEPTED = json_answer({"status": "ok"})
FORGED = error_answer(403, "ForbiddenError", "The receipt is not signed by whom it should be")
UNAVAILABLE = unavailable("The receipt cannot be taken now")
TROUBLE_SECONDS = 1.0  # between two records of trouble
UNREADABLE_HEARTBEAT = error_answer(400, "BadRequestError", "The heartbeat cannot be read")


class ReceiptEndpoints:
    """The endpoints for receipts and for recovery's heartbeat."""

    def __init__(
        self,
        inbox: Inbox,
        verifier: SignatureVerifier,
        key_ring: KeyRing,
        hash_key: bytes,
        auto_replies_fail: bool,
    ) -> None:
        self._inbox = inbox
        self._verifier = verifier
        self._key_ring = key_ring
        self._hash_key = hash_key
        self._auto_replies_fail = auto_replies_fail
        self._refused = SparseWarning("receipt refused")
        self._deferred = SparseWarning("receipt deferred")
        self._trouble: str | None = None  # why a receipt was put off, until that is in the log
        self._trouble_at = -TROUBLE_SECONDS

    async def sns(self, body: bytes, now: datetime) -> Answer:
        """Check a post of SNS: confirm a subscription, or store the receipt of a notification."""
        try:
            envelope = read_envelope(body)
        except Forged as forged:
            return self._refuse(forged)
        try:
            await self._verifier.verify(envelope, now)
            if envelope.type == "SubscriptionConfirmation":
                await self._verifier.confirm(envelope)
                log.info("subscribed to receipts", extra={"topic_arn": envelope.topic_arn})
                return ACCEPTED
        except Forged as forged:
            return self._refuse(forged)
        except Unavailable as error:
            self._deferred(str(error))
            # A stranger may name a certificate that does not exist. While genuine receipts of the
            # topic get through, that says nothing about them.
            lately = self._verifier.verified_lately(envelope.topic_arn)
            if isinstance(error, ClockBehind) or not lately:
                await self.put_off(str(error))
            return UNAVAILABLE
        return await self._take(envelope, body)

    def _refuse(self, forged: Forged) -> Answer:
        self._refused(str(forged))
        return FORGED

    async def _take(self, envelope: Envelope, body: bytes) -> Answer:
        """Write what a genuine post reports. Only what certainly matters to nobody is forgotten."""
        if envelope.type == "Notification":
            details = events.read_event(envelope.message, posted_at(envelope))
        else:
            details = Unread("SNS has ended the subscription, or posts something unknown")
            log.warning("receipts are unsubscribed", extra={"topic_arn": envelope.topic_arn})
        match details:
            case Ignored(reason):
                log.debug("event ignored", extra={"reason": reason})
                metrics.RECEIPTS.labels("ignored").inc()
                return ACCEPTED
            case Unread(reason):
                kind, outgoing = "unread", self._unread(envelope.message_id, body, reason)
            case _:
                kind, outgoing = self._receipt(envelope, details)
        answer = await self._put(outgoing)
        if answer is ACCEPTED:
            metrics.RECEIPTS.labels(kind).inc()
        else:
            self.note_trouble("Kafka did not acknowledge a receipt")
        return answer

    def _receipt(self, envelope: Envelope, details: ReceiptDetails) -> tuple[str, Outgoing]:
        # Decided here, so that the saver judges the record alike when it reads it again.
        weak = details.is_auto_reply and not self._auto_replies_fail
        key = details.id.bytes if details.id else details.message_id.encode()
        receipt = UntaggedReceipt(
            message_id=details.message_id,
            says=details.kind,
            reason=details.reason,
            response=details.response,
            sealed=self._key_ring.encrypt(envelope.message.encode(), owner=key),
            happened_at=details.happened_at,
            sns_id=envelope.message_id[: events.TEXT_MAX],
            weak=weak,
        )
        if details.id:
            tagged = receipt.of(details.id, details.attempt, receipt.sealed)
            return "tagged", Outgoing(RECEIPTS.name, key, tagged.encode())
        return "untagged", Outgoing(RECEIPTS.name, key, receipt.encode())

    def _unread(self, sns_id: str, body: bytes, reason: str) -> Outgoing:
        key = sns_id[: events.TEXT_MAX]
        sealed = self._key_ring.encrypt(body, owner=key.encode())
        post = UnreadPost(sns_id=key, reason=reason, sealed=sealed)
        return Outgoing(RECEIPTS.name, key.encode(), post.encode())

    async def heartbeat(self, body: bytes, signature: str) -> Answer:
        """Store recovery's heartbeat, which proves that receipts could arrive at this time."""
        expected = keyed_hash(self._hash_key, b"heartbeat", body).hex()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            return FORGED
        try:
            heartbeat = Heartbeat.decode(with_kind(body))
        except Malformed:
            return UNREADABLE_HEARTBEAT
        if self._trouble and await self._write_trouble() is UNAVAILABLE:
            return UNAVAILABLE
        return await self._put(Outgoing(RECEIPTS.name, b"", heartbeat.encode()))

    async def put_off(self, reason: str) -> None:
        """Write into `receipts` that a receipt was put off, so that its lack proves nothing.

        Recovery's heartbeats arrive all the same.
        """
        self.note_trouble(reason)
        if time.monotonic() - self._trouble_at >= TROUBLE_SECONDS:
            await self._write_trouble()

    def note_trouble(self, reason: str) -> None:
        """Note that a receipt was put off. The next heartbeat writes it."""
        self._trouble = reason

    async def _write_trouble(self) -> Answer:
        reason, self._trouble, self._trouble_at = self._trouble, None, time.monotonic()
        record = Heartbeat(at=clock.now(), trouble=reason)
        answer = await self._put(Outgoing(RECEIPTS.name, b"", record.encode()))
        if answer is UNAVAILABLE:
            self._trouble = reason
        return answer

    async def _put(self, outgoing: Outgoing) -> Answer:
        try:
            await self._inbox.put(outgoing)
        except Unavailable:
            return UNAVAILABLE
        return ACCEPTED


def with_kind(body: bytes) -> bytes:
    """Return a heartbeat's body with the record's kind added. Raises Malformed."""
    try:
        value = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("not a JSON object") from None
    return msgspec.json.encode({**value, "kind": "heartbeat"})
