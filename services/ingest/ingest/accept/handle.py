"""Accepting a notification: the checks in their order, the record, and then the 201.

The id is given before the first write; 201 is said once every in-sync replica has the record. What
comes after is the saver's.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

from courant import ids
from courant.contracts import ENCODE, Content, KeyType, Notification
from courant.crypto import KeyRing, keyed_hash
from courant.directory.entries import Directory, Sender, Service
from courant.errors import Unavailable
from courant.kafka.async_producer import Inbox
from courant.recipients import Email, Phone
from courant.records import Outgoing
from courant.render import templates
from courant.topics import INBOX, Channel
from ingest.accept import rules
from ingest.accept.content import Compiled, TemplateCache, storable
from ingest.accept.idempotency import FirstNotification, IdempotencyStore
from ingest.accept.rules import Simulated
from ingest.callers.auth import Caller
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.callers.safelist import Safelists
from ingest.http import fields
from ingest.http.answers import NOT_ACKNOWLEDGED, TOO_LARGE, Answer, bad, given, refused
from ingest.http.fields import Asked

IDEMPOTENCY_KEY_MAX = 255  # characters
RECORD_BYTES_MAX = 2 * 1024 * 1024  # of which a dead letter has room for two
REPLAYED = ((b"idempotency-replayed", b"true"),)
REUSED = refused(
    409, "ConflictError", "Idempotency-Key has been used with another body in the last 48 hours"
)
UNFIT_KEY = bad(f"Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_MAX} characters")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, as it came."""

    body: bytes
    content_type: str
    base: str  # scheme and host that the client called
    idempotency_key: str | None
    now: datetime
    seconds: float  # monotonic


@dataclass(frozen=True, slots=True)
class AcceptParts:
    """What accepting stands on."""

    directory: Directory
    library: TemplateCache
    log: Inbox
    memory: IdempotencyStore
    limits: Limits
    shares: FairShares
    ring: KeyRing
    hash_key: bytes
    lists: Simulated
    sending_domain: str


@dataclass(frozen=True, slots=True)
class Fit:
    """A request that passed every check, with what it will say."""

    asked: Asked
    compiled: Compiled
    body: str
    subject: str | None
    sender: Sender | None
    simulated: bool


class Accept:
    """Takes requests to send one notification."""

    def __init__(self, parts: AcceptParts) -> None:
        self._parts = parts
        self._guests = Safelists(parts.ring)

    async def notification(self, channel: Channel, caller: Caller, request: Request) -> Answer:
        """Accept a notification, or say why not."""
        body = fields.decoded(request.content_type, request.body)
        if isinstance(body, Answer):
            return body
        key = request.idempotency_key
        if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
            return UNFIT_KEY
        key_hash, body_hash = self._hashes(caller, request)
        if key_hash and body_hash:
            first = await self._parts.memory.first(caller.service.id, key_hash)
            if first:
                return self._again(channel, caller, request, body, first, body_hash)
        fit = self._checked(channel, caller, request, body)
        if isinstance(fit, Answer):
            return fit
        if fit.simulated:
            return self._answer(caller, request, fit, uuid4())
        if key is None:
            id = ids.new(request.now)
        else:
            id = ids.derived(request.now, caller.service.id.bytes, key.encode())
        record = self._record(caller, request, fit, id, key_hash, body_hash)
        if len(record.value) > RECORD_BYTES_MAX:
            return TOO_LARGE
        try:
            await self._parts.log.put(record)
        except Unavailable:
            return NOT_ACKNOWLEDGED
        return self._answer(caller, request, fit, id)

    def _checked(
        self, channel: Channel, caller: Caller, request: Request, body: fields.Object
    ) -> Fit | Answer:
        # The order is the API's: a client sees the first failure only.
        parts, service, key_type = self._parts, caller.service, caller.key.type
        asked = fields.read(channel, body, request.now)
        if isinstance(asked, Answer):
            return asked
        refusal = (
            rules.size(asked.personalisation)
            or rules.may_send(service, channel)
            or parts.limits.rate(service, key_type, request.seconds)
        )
        if refusal:
            return refusal
        template = parts.directory.template(asked.template_id)
        if refusal := rules.usable(template, service, channel):
            return refusal
        assert template
        compiled = parts.library.compiled(template)
        values = values_of(asked)
        if refusal := rules.complete(compiled, compiled.missing(values)):
            return refusal
        text = compiled.text(values)
        simulated = rules.simulated(asked.recipient, parts.lists)
        limited = key_type is not KeyType.TEST and not (simulated and channel is Channel.SMS)
        refusal = rules.sendable(service, channel, text) or (
            parts.limits.room(service, channel, request.now) if limited else None
        )
        if refusal:
            return refusal
        sender = self._sender(asked, service)
        if asked.sender_id and (refusal := rules.sender(sender, asked.sender_id, service, channel)):
            return refusal
        refusal = rules.reachable(
            asked.recipient, service, key_type, self._guests.of(service), parts.lists
        ) or rules.files(asked.personalisation, service)
        if refusal:
            return refusal
        if limited:
            parts.limits.accept(service, channel, request.now)
        return Fit(asked, compiled, text, compiled.heading(values), sender, simulated)

    def _sender(self, asked: Asked, service: Service) -> Sender | None:
        directory = self._parts.directory
        if asked.sender_id:
            return directory.senders.get(service.id, {}).get(asked.sender_id)
        return directory.default_sender(service.id, asked.channel)

    def _record(
        self,
        caller: Caller,
        request: Request,
        fit: Fit,
        id: UUID,
        key_hash: bytes | None,
        body_hash: bytes | None,
    ) -> Outgoing:
        asked, template = fit.asked, fit.compiled.template
        lane = self._parts.shares.lane(
            caller.service.id, asked.channel, template.lane, request.seconds
        )
        to = asked.recipient.given
        who = normalised(asked.recipient)
        content = ENCODE(Content(to=to, personalisation=storable(asked.personalisation)))
        record = Notification(
            id=id,
            service_id=caller.service.id,
            key_id=caller.key.id,
            key_type=caller.key.type,
            template_id=template.id,
            template_version=template.version,
            channel=asked.channel,
            lane=lane,
            reference=asked.reference,
            sender_id=asked.sender_id,
            recipient_hash=keyed_hash(self._parts.hash_key, asked.channel.encode(), who.encode()),
            sealed=self._parts.ring.encrypt(content, owner=id.bytes),
            accepted_at=request.now,
            scheduled_for=asked.scheduled_for,
            idempotency_key=key_hash,
            body_hash=body_hash,
        )
        return Outgoing(INBOX.topic(asked.channel, lane), id.bytes, record.encode())

    def _hashes(self, caller: Caller, request: Request) -> tuple[bytes | None, bytes | None]:
        if request.idempotency_key is None:
            return None, None
        key, hash_key = request.idempotency_key.encode(), self._parts.hash_key
        return (
            keyed_hash(hash_key, b"idempotency", caller.service.id.bytes, key),
            keyed_hash(hash_key, b"body", request.body),
        )

    def _again(
        self,
        channel: Channel,
        caller: Caller,
        request: Request,
        body: fields.Object,
        first: FirstNotification,
        body_hash: bytes,
    ) -> Answer:
        """Give the first answer once more; made of the same body, it reads the same."""
        if first.body_hash != body_hash:
            return REUSED
        # By the time it was first asked: what was scheduled then may be past by now.
        asked = fields.read(channel, {**body, "scheduled_for": None}, request.now)
        if isinstance(asked, Answer):
            return REUSED
        template = self._parts.directory.template(asked.template_id, first.template_version)
        if template is None or template.channel is not channel:
            return REUSED
        compiled = self._parts.library.compiled(template)
        values = values_of(asked)
        asked = replace(asked, scheduled_text=body.get("scheduled_for"))
        fit = Fit(
            asked,
            compiled,
            compiled.text(values),
            compiled.heading(values),
            self._sender(asked, caller.service),
            simulated=False,
        )
        return replace(self._answer(caller, request, fit, first.id), headers=REPLAYED)

    def _answer(self, caller: Caller, request: Request, fit: Fit, id: UUID) -> Answer:
        service, template = caller.service, fit.compiled.template
        if fit.asked.channel is Channel.EMAIL:
            domain = service.sending_domain or self._parts.sending_domain
            content = {
                "from_email": f"{service.email_from}@{domain}",
                "body": fit.body,
                "subject": fit.subject,
            }
        else:
            content = {"from_number": rules.from_number(fit.sender), "body": fit.body}
        return given(
            {
                "id": id,
                "reference": fit.asked.reference,
                "uri": f"{request.base}/v2/notifications/{id}",
                "template": {
                    "id": template.id,
                    "version": template.version,
                    "uri": f"{request.base}/services/{service.id}/templates/{template.id}",
                },
                "scheduled_for": fit.asked.scheduled_text,
                "content": content,
            },
            201,
        )


def normalised(recipient: Email | Phone) -> str:
    """Give what a recipient is compared and found by."""
    return recipient.address if isinstance(recipient, Email) else recipient.number


def values_of(asked: Asked) -> templates.Values:
    """Give the values that placeholders take. A file that is attached fills none."""
    values = asked.personalisation
    if any(type(each) is dict for each in values.values()):
        values = {
            name: "" if type(each) is dict else each
            for name, each in values.items()
            if not (type(each) is dict and each["sending_method"] == "attach")
        }
    return templates.normalise(values)
