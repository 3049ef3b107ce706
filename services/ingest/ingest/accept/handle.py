"""Accepting a notification: the checks in their order, the record, and then the 201.

The id is given before the first write; 201 is said once every in-sync replica has the record. What
comes after is the saver's.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from uuid import UUID, uuid4

from courant import clock, ids, recipients
from courant.contracts import ENCODE, Content, KeyType, Notification
from courant.crypto import KeyRing, keyed_hash
from courant.directory.entries import Directory, Sender, Service
from courant.errors import Unavailable
from courant.kafka.async_producer import Inbox
from courant.recipients import Email, Phone
from courant.records import Outgoing
from courant.render import templates
from courant.topics import INBOX, Channel
from ingest.accept import idempotency, rules
from ingest.accept.content import CompiledTemplate, TemplateCache, storable
from ingest.accept.idempotency import FirstNotification, IdempotencyStore
from ingest.callers.auth import Caller
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.callers.safelist import Safelists
from ingest.http import fields
from ingest.http.answers import NOT_ACKNOWLEDGED, REQUEST_TOO_LARGE, Answer, json_answer
from ingest.http.asgi import HttpRequest
from ingest.http.fields import SendRequest

RECORD_BYTES_MAX = 2 * 1024 * 1024  # of which a dead letter has room for two


@dataclass(frozen=True, slots=True)
class AcceptParts:
    """What accepting stands on."""

    directory: Directory
    templates: TemplateCache
    inbox: Inbox
    idempotency: IdempotencyStore
    limits: Limits
    fair_shares: FairShares
    key_ring: KeyRing
    hash_key: bytes
    simulated: frozenset[str]
    docs_url: str
    sending_domain: str


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that passed every check, with what it will say."""

    asked: SendRequest
    compiled: CompiledTemplate
    body: str
    subject: str | None
    sender: Sender | None
    simulated: bool


class Accept:
    """Takes requests to send one notification."""

    def __init__(self, parts: AcceptParts) -> None:
        self._parts = parts
        self._guests = Safelists(parts.key_ring)

    async def notification(self, channel: Channel, request: HttpRequest, caller: Caller) -> Answer:
        """Accept a notification, or return the answer that says why not."""
        parts, service = self._parts, caller.service
        text = await request.body()
        now = clock.now()
        body = fields.decode_object(request.header(b"content-type"), text)
        if isinstance(body, Answer):
            return body
        key = idempotency.read_key(request, idempotency.NOTIFICATION, service.id, parts.hash_key)
        if isinstance(key, Answer):
            return key
        body_hash = idempotency.body_hash(parts.hash_key, text) if key else None
        if key and body_hash and (first := await parts.idempotency.first(service.id, key.hash)):
            if first.body_hash != body_hash:
                return idempotency.REUSED
            return self._again(channel, caller, request, body, first, now)
        fit = self._checked(channel, caller, body, now)
        if isinstance(fit, Answer):
            return fit
        if fit.simulated:
            return self._answer(caller, request, fit, uuid4())
        id = ids.derived(now, service.id.bytes, key.text) if key else ids.new(now)
        record = self._record(caller, fit, id, now, key.hash if key else None, body_hash)
        if len(record.value) > RECORD_BYTES_MAX:
            return REQUEST_TOO_LARGE
        try:
            await parts.inbox.put(record)
        except Unavailable:
            return NOT_ACKNOWLEDGED
        return self._answer(caller, request, fit, id)

    def _checked(
        self, channel: Channel, caller: Caller, body: fields.JsonObject, now: datetime
    ) -> CheckedRequest | Answer:
        # The order is the API's: a client sees the first failure only.
        parts, service, key_type = self._parts, caller.service, caller.key.type
        asked = fields.read_send_request(channel, body, now)
        if isinstance(asked, Answer):
            return asked
        refusal = (
            rules.check_size(asked.personalisation)
            or rules.check_channel(service, channel)
            or parts.limits.check_rate(service, key_type, monotonic())
        )
        if refusal:
            return refusal
        template = parts.directory.template(asked.template_id)
        if refusal := rules.check_template(template, service, channel):
            return refusal
        assert template
        compiled = parts.templates.compiled(template)
        values = placeholder_values(asked)
        if refusal := rules.check_placeholders(compiled, compiled.missing(values)):
            return refusal
        text = compiled.text(values)
        simulated = recipients.simulated(asked.recipient, parts.simulated)
        limited = key_type is not KeyType.TEST and not (simulated and channel is Channel.SMS)
        refusal = rules.check_text(service, channel, text) or (
            parts.limits.check_volume(service, channel, now) if limited else None
        )
        if refusal:
            return refusal
        sender = self._sender(asked, service)
        if asked.sender_id and (
            refusal := rules.check_sender(sender, asked.sender_id, service, channel)
        ):
            return refusal
        refusal = rules.check_recipient(
            asked.recipient,
            service,
            key_type,
            self._guests.of(service),
            parts.simulated,
            parts.docs_url,
        ) or rules.check_files(asked.personalisation, service)
        if refusal:
            return refusal
        if limited:
            parts.limits.count_accepted(service, channel, now)
        return CheckedRequest(
            asked, compiled, text, compiled.escaped_subject(values), sender, simulated
        )

    def _sender(self, asked: SendRequest, service: Service) -> Sender | None:
        directory = self._parts.directory
        if asked.sender_id:
            return directory.senders.get(service.id, {}).get(asked.sender_id)
        return directory.default_sender(service.id, asked.channel)

    def _record(
        self,
        caller: Caller,
        fit: CheckedRequest,
        id: UUID,
        now: datetime,
        key_hash: bytes | None,
        body_hash: bytes | None,
    ) -> Outgoing:
        asked, template = fit.asked, fit.compiled.template
        lane = self._parts.fair_shares.choose_lane(
            caller.service.id, asked.channel, template.lane, monotonic()
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
            sealed=self._parts.key_ring.encrypt(content, owner=id.bytes),
            accepted_at=now,
            scheduled_for=asked.scheduled_for,
            idempotency_key=key_hash,
            body_hash=body_hash,
        )
        return Outgoing(INBOX.topic(asked.channel, lane), id.bytes, record.encode())

    def _again(
        self,
        channel: Channel,
        caller: Caller,
        request: HttpRequest,
        body: fields.JsonObject,
        first: FirstNotification,
        now: datetime,
    ) -> Answer:
        """Give the first answer once more; made of the same body, it reads the same."""
        # By the time it was first asked: what was scheduled then may be past by now.
        asked = fields.read_send_request(channel, {**body, "scheduled_for": None}, now)
        if isinstance(asked, Answer):
            return idempotency.REUSED
        template = self._parts.directory.template(asked.template_id, first.template_version)
        if template is None or template.channel is not channel:
            return idempotency.REUSED
        compiled = self._parts.templates.compiled(template)
        values = placeholder_values(asked)
        asked = replace(asked, scheduled_text=body.get("scheduled_for"))
        fit = CheckedRequest(
            asked,
            compiled,
            compiled.text(values),
            compiled.escaped_subject(values),
            self._sender(asked, caller.service),
            simulated=False,
        )
        return replace(self._answer(caller, request, fit, first.id), headers=idempotency.REPLAYED)

    def _answer(
        self, caller: Caller, request: HttpRequest, fit: CheckedRequest, id: UUID
    ) -> Answer:
        service, template, base = caller.service, fit.compiled.template, request.base_url()
        if fit.asked.channel is Channel.EMAIL:
            domain = service.sending_domain or self._parts.sending_domain
            content = {
                "from_email": f"{service.email_from}@{domain}",
                "body": fit.body,
                "subject": fit.subject,
            }
        else:
            content = {"from_number": rules.from_number(fit.sender), "body": fit.body}
        return json_answer(
            {
                "id": id,
                "reference": fit.asked.reference,
                "uri": f"{base}/v2/notifications/{id}",
                "template": {
                    "id": template.id,
                    "version": template.version,
                    "uri": f"{base}/services/{service.id}/templates/{template.id}",
                },
                "scheduled_for": fit.asked.scheduled_text,
                "content": content,
            },
            201,
        )


def normalised(recipient: Email | Phone) -> str:
    """Give what a recipient is compared and found by."""
    return recipient.address if isinstance(recipient, Email) else recipient.number


def placeholder_values(asked: SendRequest) -> templates.Values:
    """Give the values that placeholders take. A file that is attached fills none."""
    values = asked.personalisation
    if any(type(each) is dict for each in values.values()):
        values = {
            name: "" if type(each) is dict else each
            for name, each in values.items()
            if not (type(each) is dict and each["sending_method"] == "attach")
        }
    return templates.normalise(values)
