"""What providers say later, taken over HTTP and written into `receipts`; the saver does the rest.

Statuses are chosen for who posts: SNS comes again after a 5xx and never after a 4xx, so 403 is for
what is forged, 503 for weather, 200 for all that needs no second try.
"""

import hmac
import logging
from datetime import datetime

import msgspec

from courant.contracts import Heartbeat, Malformed, Receipt
from courant.crypto import KeyRing, keyed_hash
from courant.errors import Unavailable
from courant.kafka.async_producer import Inbox
from courant.records import Outgoing
from courant.topics import RECEIPTS
from ingest.http.answers import Answer, error_answer, json_answer, unavailable
from ingest.receipts import events
from ingest.receipts.events import Ignored
from ingest.receipts.sns import Envelope, Forged, SignatureVerifier, read_envelope

log = logging.getLogger(__name__)
ACCEPTED = json_answer({"status": "ok"})
FORGED = error_answer(403, "ForbiddenError", "The receipt is not signed by whom it should be")
UNAVAILABLE = unavailable("The receipt cannot be taken now")
UNREADABLE_HEARTBEAT = error_answer(400, "BadRequestError", "The heartbeat cannot be read")


class ReceiptEndpoints:
    """Takes receipts and heartbeats."""

    def __init__(
        self, inbox: Inbox, verifier: SignatureVerifier, key_ring: KeyRing, hash_key: bytes
    ) -> None:
        self._log = inbox
        self._verifier = verifier
        self._ring = key_ring
        self._hash_key = hash_key

    async def sns(self, body: bytes, now: datetime) -> Answer:
        """Take what SNS posts."""
        try:
            envelope = read_envelope(body)
            await self._verifier.verify(envelope, now)
            if envelope.type == "SubscriptionConfirmation":
                await self._verifier.confirm(envelope)
                log.info("subscribed to receipts", extra={"topic_arn": envelope.topic_arn})
                return ACCEPTED
        except Forged as forged:
            log.warning("receipt refused", extra={"reason": str(forged)})
            return FORGED
        except Unavailable as weather:
            log.warning("receipt put off", extra={"reason": str(weather)})
            return UNAVAILABLE
        if envelope.type != "Notification":
            return ACCEPTED
        return await self._take(envelope)

    async def _take(self, envelope: Envelope) -> Answer:
        meant = events.read_event(envelope.message)
        if isinstance(meant, Ignored):
            log.debug("event passed over", extra={"reason": meant.reason})
            return ACCEPTED
        receipt = Receipt(
            id=meant.id,
            attempt=meant.attempt,
            says=meant.kind,
            message_id=meant.message_id,
            reason=meant.reason,
            response=meant.response,
            sealed=self._ring.encrypt(envelope.message.encode(), owner=meant.id.bytes),
        )
        return await self._put(Outgoing(RECEIPTS.name, meant.id.bytes, receipt.encode()))

    async def heartbeat(self, body: bytes, signature: str) -> Answer:
        """Take recovery's sign that receipts could come now."""
        wanted = keyed_hash(self._hash_key, b"heartbeat", body).hex()
        if not hmac.compare_digest(wanted.encode(), signature.encode()):
            return FORGED
        try:
            heartbeat = Heartbeat.decode(with_kind(body))
        except Malformed:
            return UNREADABLE_HEARTBEAT
        return await self._put(Outgoing(RECEIPTS.name, b"", heartbeat.encode()))

    async def _put(self, outgoing: Outgoing) -> Answer:
        try:
            await self._log.put(outgoing)
        except Unavailable:
            return UNAVAILABLE
        return ACCEPTED


def with_kind(body: bytes) -> bytes:
    """Make a heartbeat's body a record; raises Malformed."""
    try:
        value = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("no object") from None
    return msgspec.json.encode({**value, "kind": "heartbeat"})
