"""Accepts a notification: the checks in their order, the record, and then the 201.

The id is chosen before the first write. The 201 is answered once every in-sync replica has the
record. The saver does everything after that.
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
from ingest.accept.idempotency import FirstNotification, IdempotencyStore, RecentKeys
from ingest.callers.auth import Caller
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.callers.safelist import Safelists
from ingest.http import fields
from ingest.http.answers import NOT_ACKNOWLEDGED, REQUEST_TOO_LARGE, Answer, json_answer
from ingest.http.asgi import HttpRequest
from ingest.http.fields import SendRequest

RECORD_BYTES_MAX = 2 * 1024 * 1024  # a dead letter has room for two of this size


@dataclass(frozen=True, slots=True)
class AcceptParts:
    """The state and settings that single and bulk requests share."""

    directory: Directory
    templates: TemplateCache
    inbox: Inbox
    idempotency: IdempotencyStore
    recent_keys: RecentKeys
    limits: Limits
    fair_shares: FairShares
    key_ring: KeyRing
    hash_key: bytes
    simulated: frozenset[str]
    docs_url: str
    sending_domain: str


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that passed every check, with the content that it will send."""

    send_request: SendRequest
    compiled: CompiledTemplate
    body: str
    subject: str | None
    sender: Sender | None
    simulated: bool


class Accept:
    """Handles requests to send one notification."""

    def __init__(self, parts: AcceptParts) -> None:
        self._parts = parts
        self._safelists = Safelists(parts.key_ring)

    async def notification(self, channel: Channel, request: HttpRequest, caller: Caller) -> Answer:
        """Accept a notification. Returns the 201, or the answer that rejects the request."""
        parts, service = self._parts, caller.service
        text = await request.body()
        now = clock.now()
        body = fields.decode_object(request.header(b"content-type"), text)
        if isinstance(body, Answer):
            return body
        key = idempotency.read_key(request, idempotency.NOTIFICATION, caller, parts.hash_key)
        if isinstance(key, Answer):
            return key
        body_hash = idempotency.body_hash(parts.hash_key, text) if key else None
        if key and body_hash and (first := await parts.idempotency.first(service.id, key.hash)):
            if first.body_hash != body_hash:
                return idempotency.REUSED
            return self._replay(channel, caller, request, body, first, now)
        if parts.recent_keys.is_reused(key, body_hash, now):
            return idempotency.REUSED
        checked = self._check(channel, caller, body, now)
        if isinstance(checked, Answer):
            return checked
        if checked.simulated:
            return self._answer(caller, request, checked, uuid4())
        if key and body_hash:
            id = parts.recent_keys.id_of(key, body_hash, now, ids.derived)
        else:
            id = ids.new(now)
        record = self._record(caller, checked, id, now, key.hash if key else None, body_hash)
        if len(record.value) > RECORD_BYTES_MAX:
            return REQUEST_TOO_LARGE
        if key and body_hash:
            parts.recent_keys.remember(key, body_hash, id, now)
        try:
            await parts.inbox.put(record)
        except Unavailable:
            return NOT_ACKNOWLEDGED
        return self._answer(caller, request, checked, id)

    def _check(
        self, channel: Channel, caller: Caller, body: fields.JsonObject, now: datetime
    ) -> CheckedRequest | Answer:
        # The contract fixes this order, because a client sees only the first failure.
        parts, service, key_type = self._parts, caller.service, caller.key.type
        send_request = fields.read_send_request(channel, body, now)
        if isinstance(send_request, Answer):
            return send_request
        refusal = (
            rules.check_size(send_request.personalisation)
            or rules.check_channel(service, channel)
            or parts.limits.check_rate(service, key_type, monotonic())
        )
        if refusal:
            return refusal
        template = parts.directory.template(send_request.template_id)
        if refusal := rules.check_template(template, service, channel):
            return refusal
        assert template
        compiled = parts.templates.compiled(template)
        values = placeholder_values(send_request)
        if refusal := rules.check_placeholders(compiled, compiled.missing(values)):
            return refusal
        text = compiled.text(values)
        simulated = recipients.simulated(send_request.recipient, parts.simulated)
        limited = key_type is not KeyType.TEST and not (simulated and channel is Channel.SMS)
        refusal = rules.check_text(service, channel, text) or (
            parts.limits.check_volume(service, channel, now) if limited else None
        )
        if refusal:
            return refusal
        sender = self._sender(send_request, service)
        if send_request.sender_id and (
            refusal := rules.check_sender(sender, send_request.sender_id, service, channel)
        ):
            return refusal
        refusal = rules.check_recipient(
            send_request.recipient,
            service,
            key_type,
            self._safelists.of(service),
            parts.simulated,
            parts.docs_url,
        ) or rules.check_files(send_request.personalisation, service)
        if refusal:
            return refusal
        if limited:
            parts.limits.count_accepted(service, channel, now)
        return CheckedRequest(
            send_request, compiled, text, compiled.escaped_subject(values), sender, simulated
        )

    def _sender(self, send_request: SendRequest, service: Service) -> Sender | None:
        directory = self._parts.directory
        if send_request.sender_id:
            return directory.senders.get(service.id, {}).get(send_request.sender_id)
        return directory.default_sender(service.id, send_request.channel)

    def _record(
        self,
        caller: Caller,
        checked: CheckedRequest,
        id: UUID,
        now: datetime,
        key_hash: bytes | None,
        body_hash: bytes | None,
    ) -> Outgoing:
        send_request, template = checked.send_request, checked.compiled.template
        lane = self._parts.fair_shares.choose_lane(
            caller.service.id, send_request.channel, template.lane, monotonic()
        )
        to = send_request.recipient.given
        recipient = normalised(send_request.recipient)
        content = ENCODE(Content(to=to, personalisation=storable(send_request.personalisation)))
        record = Notification(
            id=id,
            service_id=caller.service.id,
            key_id=caller.key.id,
            key_type=caller.key.type,
            template_id=template.id,
            template_version=template.version,
            channel=send_request.channel,
            lane=lane,
            reference=send_request.reference,
            sender_id=send_request.sender_id,
            recipient_hash=keyed_hash(
                self._parts.hash_key, send_request.channel.encode(), recipient.encode()
            ),
            sealed=self._parts.key_ring.encrypt(content, owner=id.bytes),
            accepted_at=now,
            scheduled_for=send_request.scheduled_for,
            idempotency_key=key_hash,
            body_hash=body_hash,
        )
        return Outgoing(INBOX.topic(send_request.channel, lane), id.bytes, record.encode())

    def _replay(
        self,
        channel: Channel,
        caller: Caller,
        request: HttpRequest,
        body: fields.JsonObject,
        first: FirstNotification,
        now: datetime,
    ) -> Answer:
        """Repeat the first request's answer, built from the same body and template version."""
        # scheduled_for is not checked again: it was valid at first and may have passed since.
        send_request = fields.read_send_request(channel, {**body, "scheduled_for": None}, now)
        if isinstance(send_request, Answer):
            return idempotency.REUSED
        template = self._parts.directory.template(send_request.template_id, first.template_version)
        if template is None or template.channel is not channel:
            return idempotency.REUSED
        compiled = self._parts.templates.compiled(template)
        values = placeholder_values(send_request)
        send_request = replace(send_request, scheduled_text=body.get("scheduled_for"))
        checked = CheckedRequest(
            send_request,
            compiled,
            compiled.text(values),
            compiled.escaped_subject(values),
            self._sender(send_request, caller.service),
            simulated=False,
        )
        return replace(
            self._answer(caller, request, checked, first.id), headers=idempotency.REPLAYED
        )

    def _answer(
        self, caller: Caller, request: HttpRequest, checked: CheckedRequest, id: UUID
    ) -> Answer:
        service, template, base = caller.service, checked.compiled.template, request.base_url()
        if checked.send_request.channel is Channel.EMAIL:
            domain = service.sending_domain or self._parts.sending_domain
            content = {
                "from_email": f"{service.email_from}@{domain}",
                "body": checked.body,
                "subject": checked.subject,
            }
        else:
            content = {"from_number": rules.from_number(checked.sender), "body": checked.body}
        return json_answer(
            {
                "id": id,
                "reference": checked.send_request.reference,
                "uri": f"{base}/v2/notifications/{id}",
                "template": {
                    "id": template.id,
                    "version": template.version,
                    "uri": f"{base}/services/{service.id}/templates/{template.id}",
                },
                "scheduled_for": checked.send_request.scheduled_text,
                "content": content,
            },
            201,
        )


def normalised(recipient: Email | Phone) -> str:
    """Return the form of a recipient that comparisons and the recipient hash use."""
    return recipient.address if isinstance(recipient, Email) else recipient.number


def placeholder_values(send_request: SendRequest) -> templates.Values:
    """Return the values for the placeholders. An attached file fills no placeholder."""
    values = send_request.personalisation
    if any(type(value) is dict for value in values.values()):
        values = {
            name: "" if type(value) is dict else value
            for name, value in values.items()
            if not (type(value) is dict and value["sending_method"] == "attach")
        }
    return templates.normalise(values)
