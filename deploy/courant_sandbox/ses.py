"""The wire of SES v2: SendEmail, SendBulkEmail, GetAccount."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import formataddr, getaddresses
from typing import Any, TypeVar

import msgspec

from courant_sandbox import checks
from courant_sandbox.messages import Draft, Parts, Refused, Reply, Result


class Wire(msgspec.Struct, rename="pascal", frozen=True):
    """JSON fields as AWS names them; fields that are not declared are ignored."""


class Pair(Wire, frozen=True):
    name: str
    value: str = ""


class Written(Wire, frozen=True):
    data: str


class Body(Wire, frozen=True):
    text: Written | None = None
    html: Written | None = None


class Simple(Wire, frozen=True):
    subject: Written
    body: Body
    headers: list[Pair] = []


class Raw(Wire, frozen=True):
    data: str


class TemplateContent(Wire, frozen=True):
    subject: str | None = None
    text: str | None = None
    html: str | None = None


class Template(Wire, frozen=True):
    template_name: str | None = None
    template_arn: str | None = None
    template_content: TemplateContent | None = None
    template_data: str = "{}"
    headers: list[Pair] = []


class Content(Wire, frozen=True):
    simple: Simple | None = None
    raw: Raw | None = None
    template: Template | None = None


class Destination(Wire, frozen=True):
    to_addresses: list[str] = []
    cc_addresses: list[str] = []
    bcc_addresses: list[str] = []

    def all(self) -> list[str]:
        return self.to_addresses + self.cc_addresses + self.bcc_addresses


class SendEmail(Wire, frozen=True):
    content: Content
    from_email_address: str | None = None
    destination: Destination = Destination()
    reply_to_addresses: list[str] = []
    email_tags: list[Pair] = []


class ReplacementTemplate(Wire, frozen=True):
    replacement_template_data: str = "{}"


class ReplacementContent(Wire, frozen=True):
    replacement_template: ReplacementTemplate = ReplacementTemplate()


class BulkEntry(Wire, frozen=True):
    destination: Destination
    replacement_tags: list[Pair] = []
    replacement_email_content: ReplacementContent = ReplacementContent()
    replacement_headers: list[Pair] = []


class SendBulkEmail(Wire, frozen=True):
    default_content: Content
    bulk_email_entries: list[BulkEntry]
    from_email_address: str | None = None
    reply_to_addresses: list[str] = []
    default_email_tags: list[Pair] = []


_SEND_EMAIL = msgspec.json.Decoder(SendEmail)
_SEND_BULK_EMAIL = msgspec.json.Decoder(SendBulkEmail)
_PLACE = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")
_JSON = (b"content-type", b"application/json")
T = TypeVar("T")


def read_send_email(body: bytes) -> list[Draft]:
    """Check a SendEmail and return its one message. Raises Refused."""
    request = _decoded(_SEND_EMAIL, body)
    for value in request.reply_to_addresses:
        checks.address(value)
    tags = checks.tags(_pairs(request.email_tags))
    content = request.content
    if (content.simple is not None) + (content.raw is not None) + (
        content.template is not None
    ) != 1:
        raise checks.bad_request("Content must be exactly one of Simple, Raw and Template.")
    if content.raw is not None:
        return [_raw(request, content.raw, tags)]
    source = checks.address(request.from_email_address)
    to = ", ".join(checks.recipients(request.destination.all()))
    if content.template is not None:
        template = _Template(content.template, len(body))
        return [template.draft(to, source, tags, "{}")]
    assert content.simple is not None
    checks.headers(_pairs(content.simple.headers))
    checks.message_size(len(body))
    written = content.simple.body
    if written.text is None and written.html is None:
        raise checks.bad_request("Body must have a Text or an Html part.")
    parts = Parts(content.simple.subject.data, _data(written.text), _data(written.html))
    return [Draft(to, source, tags, parts)]


def read_send_bulk_email(body: bytes) -> list[Draft]:
    """Check a SendBulkEmail and return its messages in order. Raises Refused for all of them."""
    request = _decoded(_SEND_BULK_EMAIL, body)
    for value in request.reply_to_addresses:
        checks.address(value)
    source = checks.address(request.from_email_address)
    checks.entries(len(request.bulk_email_entries))
    if request.default_content.template is None:
        raise checks.bad_request("DefaultContent must be a Template.")
    template = _Template(request.default_content.template, len(body))
    defaults = checks.tags(_pairs(request.default_email_tags))
    drafts = []
    for entry in request.bulk_email_entries:
        to = ", ".join(checks.recipients(entry.destination.all()))
        if entry.replacement_headers:
            checks.headers(_pairs(entry.replacement_headers))
        tags = defaults | checks.tags(_pairs(entry.replacement_tags))
        data = entry.replacement_email_content.replacement_template.replacement_template_data
        drafts.append(template.draft(to, source, tags, data))
    return drafts


class _Template:
    """An inline template, parsed once for each call."""

    def __init__(self, template: Template, request_bytes: int) -> None:
        if template.template_content is None:
            raise Refused("NotFoundException", "Template does not exist.", http=404)
        if request_bytes > checks.INLINE_TEMPLATE_BYTES_MAX:
            raise checks.bad_request("A request with an inline template exceeds 1 MB.")
        checks.headers(_pairs(template.headers))
        self._defaults = _values(template.template_data)
        content = template.template_content
        self._parts = [
            None if text is None else _PLACE.split(text)
            for text in (content.subject, content.text, content.html)
        ]

    def draft(self, to: str, source: str, tags: dict[str, str], data: str) -> Draft:
        values = self._defaults | _values(data)
        missing: list[str] = []
        parts = Parts(*(self._rendered(part, values, missing) for part in self._parts))
        # A message with a missing value is accepted and fails later; only the receipt reports it.
        fault = (
            f"Attribute '{missing[0]}' is not present in the rendering data." if missing else None
        )
        return Draft(to, source, tags, parts, fault)

    def _rendered(
        self, part: list[str] | None, values: dict[str, Any], missing: list[str]
    ) -> str | None:
        if part is None:
            return None
        # re.split with a group returns text, name, text, name, …, text.
        filled = part.copy()
        for place in range(1, len(part), 2):
            value = values.get(part[place])
            if value is None:
                missing.append(part[place])
                value = ""
            filled[place] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return "".join(filled)


def accepted(results: Sequence[Result]) -> Reply:
    return _reply(200, {"MessageId": results[0].message_id})


def accepted_bulk(results: Sequence[Result]) -> Reply:
    entries = []
    for result in results:
        entry = {"Status": result.status}
        if result.message_id is not None:
            entry["MessageId"] = result.message_id
        if result.error is not None:
            entry["Error"] = result.error
        entries.append(entry)
    return _reply(200, {"BulkEmailEntryResults": entries})


def refused(refusal: Refused) -> Reply:
    headers = [_JSON, (b"x-amzn-errortype", refusal.code.encode())]
    return Reply(refusal.http, headers, msgspec.json.encode({"message": refusal.message}))


def account(rate: float, sent: int) -> Reply:
    """Answer GetAccount. The sent count is since the process's start, not over 24 hours."""
    quota = {"Max24HourSend": -1.0, "MaxSendRate": rate, "SentLast24Hours": float(sent)}
    return _reply(
        200,
        {
            "SendQuota": quota,
            "SendingEnabled": True,
            "ProductionAccessEnabled": True,
            "EnforcementStatus": "HEALTHY",
            "DedicatedIpAutoWarmupEnabled": False,
            "SuppressionAttributes": {"SuppressedReasons": ["BOUNCE", "COMPLAINT"]},
        },
    )


def mime(data: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(data)


def _raw(request: SendEmail, raw: Raw, tags: dict[str, str]) -> Draft:
    checks.message_size(len(raw.data))
    try:
        data = base64.b64decode(raw.data, validate=True)
    except binascii.Error:
        raise checks.bad_request("Raw data is not base64.") from None
    head = BytesParser(policy=policy.compat32).parsebytes(data, headersonly=True)
    named = request.destination.all() or [
        formataddr(pair)
        for pair in getaddresses(
            [str(value) for name in ("To", "Cc", "Bcc") for value in head.get_all(name, [])]
        )
    ]
    to = ", ".join(checks.recipients(named))
    source = checks.address(request.from_email_address or str(head.get("From", "")))
    # Tags in the message's headers are dropped when the call carries tags of its own.
    if not tags and "X-SES-MESSAGE-TAGS" in head:
        written = str(head["X-SES-MESSAGE-TAGS"])
        pairs = (pair.partition("=") for pair in written.split(",") if pair.strip())
        tags = checks.tags((name.strip(), value.strip()) for name, _, value in pairs)
    return Draft(to, source, tags, Parts(subject=str(head.get("Subject", "")), raw=raw.data))


def _decoded(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise checks.bad_request(f"The request is not valid: {error}") from None


def _values(data: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(checks.template_data(data), type=dict[str, Any])
    except msgspec.DecodeError:
        raise checks.bad_request("Template data is not a JSON object.") from None


def _pairs(pairs: Iterable[Pair]) -> list[tuple[str, str]]:
    return [(pair.name, pair.value) for pair in pairs]


def _data(written: Written | None) -> str | None:
    return None if written is None else written.data


def _reply(status: int, body: object) -> Reply:
    return Reply(status, [_JSON], msgspec.json.encode(body))
