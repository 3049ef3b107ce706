"""The wire of SMS: End User Messaging's SendTextMessage, and SNS Publish to a phone."""

import re
from collections.abc import Sequence
from urllib.parse import parse_qs
from uuid import uuid4
from xml.sax.saxutils import escape

import msgspec

from courant_sandbox import checks
from courant_sandbox.messages import Draft, Parts, Refused, Reply, Result

SNS_BYTES_MAX = 1_600
SNS_NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"
FORM_FIELDS_MAX = 200
SHARED_SENDER = "NOTICE"

_AMZ_JSON = (b"content-type", b"application/x-amz-json-1.0")
_XML = (b"content-type", b"text/xml")
_SENDER_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9-]{3,11}")


class SendTextMessage(msgspec.Struct, rename="pascal", frozen=True):
    destination_phone_number: str
    origination_identity: str = SHARED_SENDER
    message_body: str = ""
    message_type: str = "TRANSACTIONAL"
    time_to_live: int | None = None
    context: dict[str, str] = {}
    dry_run: bool = False


_SEND_TEXT = msgspec.json.Decoder(SendTextMessage)


def read_send_text(body: bytes) -> list[Draft]:
    """Check a SendTextMessage and return its message; none for a dry run. Raises Refused."""
    try:
        request = _SEND_TEXT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise checks.invalid(f"The request is not valid: {error}") from None
    to = checks.number(request.destination_phone_number)
    text = checks.text_body(request.message_body)
    context = checks.context(request.context)
    if request.message_type not in ("TRANSACTIONAL", "PROMOTIONAL"):
        raise checks.invalid("MessageType must be TRANSACTIONAL or PROMOTIONAL.")
    if request.time_to_live is not None and request.time_to_live not in checks.TIME_TO_LIVE_SECONDS:
        raise checks.invalid("TimeToLive must be from 5 to 259200 seconds.")
    if request.dry_run:
        return []
    return [Draft(to, request.origination_identity, context, Parts(text=text))]


def read_publish(body: bytes) -> list[Draft]:
    """Check a Publish to a phone and return its message. Raises Refused."""
    try:
        form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
    except ValueError:
        raise Refused("InvalidParameter", "The form is not valid.") from None
    fields = {name: values[0] for name, values in form.items()}
    if "PhoneNumber" not in fields:
        raise Refused("InvalidParameter", "Invalid parameter: PhoneNumber is wanted here.")
    try:
        to = checks.number(fields["PhoneNumber"])
    except Refused:
        raise Refused(
            "InvalidParameter",
            "Invalid parameter: PhoneNumber Reason: it is not valid to publish to",
        ) from None
    text = fields.get("Message", "")
    if not text.strip():
        raise Refused("InvalidParameter", "Invalid parameter: Empty message")
    if len(text.encode()) > SNS_BYTES_MAX:
        raise Refused("InvalidParameter", "Invalid parameter: Message too long")
    attributes = _attributes(fields)
    source = attributes.get("AWS.SNS.SMS.SenderID") or attributes.get(
        "AWS.MM.SMS.OriginationNumber", SHARED_SENDER
    )
    if "AWS.SNS.SMS.SenderID" in attributes and not _SENDER_ID.fullmatch(source):
        raise Refused("InvalidParameter", "Invalid parameter: AWS.SNS.SMS.SenderID")
    if attributes.get("AWS.SNS.SMS.SMSType", "Promotional") not in ("Promotional", "Transactional"):
        raise Refused("InvalidParameter", "Invalid parameter: AWS.SNS.SMS.SMSType")
    return [Draft(to, source, {}, Parts(text=text))]


def _attributes(fields: dict[str, str]) -> dict[str, str]:
    """Return the message's attributes: name and value are in two fields with the same number."""
    prefix, suffix = "MessageAttributes.entry.", ".Name"
    return {
        value: fields.get(f"{name.removesuffix(suffix)}.Value.StringValue", "")
        for name, value in fields.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }


def accepted_text(results: Sequence[Result]) -> Reply:
    message_id = results[0].message_id if results else str(uuid4())
    return Reply(200, [_AMZ_JSON], msgspec.json.encode({"MessageId": message_id}))


def refused_text(refusal: Refused) -> Reply:
    body = {"__type": refusal.code, "Message": refusal.message}
    if refusal.reason is not None:
        body["Reason"] = refusal.reason
    if refusal.resource_type is not None:
        body["ResourceType"] = refusal.resource_type
    headers = [_AMZ_JSON, (b"x-amzn-errortype", refusal.code.encode())]
    return Reply(refusal.http, headers, msgspec.json.encode(body))


def accepted_publish(results: Sequence[Result]) -> Reply:
    return _xml(
        200,
        f'<PublishResponse xmlns="{SNS_NAMESPACE}"><PublishResult>'
        f"<MessageId>{results[0].message_id}</MessageId></PublishResult>"
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></PublishResponse>",
    )


def confirmed(subscription_arn: str) -> Reply:
    """Answer ConfirmSubscription, which the subscriber calls by opening its SubscribeURL."""
    return _xml(
        200,
        f'<ConfirmSubscriptionResponse xmlns="{SNS_NAMESPACE}"><ConfirmSubscriptionResult>'
        f"<SubscriptionArn>{escape(subscription_arn)}</SubscriptionArn>"
        f"</ConfirmSubscriptionResult><ResponseMetadata><RequestId>{uuid4()}</RequestId>"
        "</ResponseMetadata></ConfirmSubscriptionResponse>",
    )


def refused_publish(refusal: Refused) -> Reply:
    side = "Sender" if refusal.http < 500 else "Receiver"
    return _xml(
        refusal.http,
        f'<ErrorResponse xmlns="{SNS_NAMESPACE}"><Error><Type>{side}</Type>'
        f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message></Error>"
        f"<RequestId>{uuid4()}</RequestId></ErrorResponse>",
    )


def _xml(status: int, body: str) -> Reply:
    return Reply(status, [_XML], body.encode())
