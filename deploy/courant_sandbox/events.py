"""The later reports of SES and End User Messaging, as the JSON inside an SNS envelope."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec

from courant_sandbox.messages import Channel, Entry, Outcome

ACCOUNT = "123456789012"
# SES sends this once to a new event destination, as plain text instead of JSON.
VALIDATED = "Successfully validated SNS topic for Amazon SES event publishing."

KINDS_BY_OUTCOME: dict[tuple[Channel, Outcome], tuple[str, ...]] = {
    (Channel.EMAIL, Outcome.DELIVERED): ("Send", "Delivery"),
    (Channel.EMAIL, Outcome.BOUNCED): ("Send", "Bounce"),
    (Channel.EMAIL, Outcome.SOFT_BOUNCED): ("Send", "Bounce"),
    (Channel.EMAIL, Outcome.SUPPRESSED): ("Send", "Bounce"),
    (Channel.EMAIL, Outcome.COMPLAINED): ("Send", "Delivery", "Complaint"),
    (Channel.EMAIL, Outcome.DELAYED): ("Send", "DeliveryDelay", "Delivery"),
    (Channel.EMAIL, Outcome.REJECTED): ("Send", "Reject"),
    (Channel.EMAIL, Outcome.RENDERING_FAILED): ("Rendering Failure",),
    (Channel.SMS, Outcome.DELIVERED): ("TEXT_SENT", "TEXT_DELIVERED"),
    (Channel.SMS, Outcome.UNREACHABLE): ("TEXT_SENT", "TEXT_UNREACHABLE"),
    (Channel.SMS, Outcome.CARRIER_UNREACHABLE): ("TEXT_SENT", "TEXT_CARRIER_UNREACHABLE"),
    (Channel.SMS, Outcome.BLOCKED): ("TEXT_SENT", "TEXT_CARRIER_BLOCKED"),
    (Channel.SMS, Outcome.SPAM): ("TEXT_SENT", "TEXT_SPAM"),
    (Channel.SMS, Outcome.INVALID): ("TEXT_INVALID",),
    (Channel.SMS, Outcome.EXPIRED): ("TEXT_SENT", "TEXT_TTL_EXPIRED"),
    (Channel.SMS, Outcome.SUCCESSFUL): ("TEXT_SENT", "TEXT_SUCCESSFUL", "TEXT_DELIVERED"),
}

_BOUNCES = {
    Outcome.SOFT_BOUNCED: ("Transient", "MailboxFull", "5.2.2", "smtp; 552 5.2.2 mailbox full"),
    Outcome.SUPPRESSED: ("Permanent", "Suppressed", "5.1.1", "on the suppression list"),
}
_HARD_BOUNCE = ("Permanent", "General", "5.1.1", "smtp; 550 5.1.1 user unknown")

_TEXT_ON_THE_WAY = ("TEXT_QUEUED", "TEXT_SENT", "TEXT_PENDING")
# A receiver classifies by the words of the descriptions.
_TEXT_DESCRIPTIONS = {
    "TEXT_QUEUED": "Message is queued",
    "TEXT_SENT": "Message has been sent to the phone carrier",
    "TEXT_PENDING": "Message is pending",
    "TEXT_SUCCESSFUL": "Message has been accepted by phone carrier",
    "TEXT_DELIVERED": "Message has been accepted by phone",
    "TEXT_UNREACHABLE": "Phone is currently unreachable/unavailable",
    "TEXT_CARRIER_UNREACHABLE": "Phone carrier is currently unreachable/unavailable",
    "TEXT_BLOCKED": "Phone has blocked SMS",
    "TEXT_CARRIER_BLOCKED": "Phone carrier has blocked this message",
    "TEXT_PROTECT_BLOCKED": "Destination is on a blocked list",
    "TEXT_SPAM": "Blocked as spam by phone carrier",
    "TEXT_INVALID": "Invalid phone number",
    "TEXT_INVALID_MESSAGE": "Message body is invalid",
    "TEXT_TTL_EXPIRED": "Message has passed its time to live",
    "TEXT_UNKNOWN": "Unknown error attempting to reach phone",
}


def kinds(entry: Entry, ordered: Sequence[str] | None) -> list[str]:
    """Return the kinds of a message's receipts in order; `ordered` kinds replace them."""
    if entry.outcome is Outcome.SILENT:
        return []
    if ordered is not None:
        text = entry.channel is Channel.SMS
        return [kind for kind in ordered if kind.startswith("TEXT_") is text]
    return list(KINDS_BY_OUTCOME.get((entry.channel, entry.outcome), ()))


def message(entry: Entry, kind: str, now: datetime) -> str:
    """Return one receipt as the text of an SNS message."""
    build = _text_event if entry.channel is Channel.SMS else _email_event
    return msgspec.json.encode(build(entry, kind, now)).decode()


def timestamp(now: datetime) -> str:
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z"


def _email_event(entry: Entry, kind: str, now: datetime) -> dict[str, Any]:
    mail = {
        "timestamp": entry.at,
        "messageId": entry.message_id,
        "source": entry.source,
        "sourceArn": f"arn:aws:ses:ca-central-1:{ACCOUNT}:identity/sandbox.invalid",
        "sendingAccountId": ACCOUNT,
        "destination": entry.to.split(", "),
        "headersTruncated": False,
        "headers": [],
        "commonHeaders": {"from": [entry.source], "to": entry.to.split(", ")},
        "tags": {
            "ses:operation": [entry.api],
            "ses:source-ip": ["127.0.0.1"],
            "ses:caller-identity": ["sandbox"],
            **{name: [value] for name, value in entry.tags.items()},
        },
    }
    return {"eventType": kind, "mail": mail} | _email_part(entry, kind, timestamp(now))


def _email_part(entry: Entry, kind: str, at: str) -> dict[str, Any]:
    to = entry.to.split(", ")
    agent = "dns; mx.sandbox.invalid"
    if kind == "Send":
        return {"send": {}}
    if kind == "Delivery":
        return {
            "delivery": {
                "timestamp": at,
                "processingTimeMillis": 50,
                "recipients": to,
                "smtpResponse": "250 2.0.0 OK",
                "reportingMTA": "mx.sandbox.invalid",
            }
        }
    if kind == "Bounce":
        type_, subtype, status, words = _BOUNCES.get(entry.outcome, _HARD_BOUNCE)
        bounced = [
            {"emailAddress": one, "action": "failed", "status": status, "diagnosticCode": words}
            for one in to
        ]
        return {
            "bounce": {
                "bounceType": type_,
                "bounceSubType": subtype,
                "bouncedRecipients": bounced,
                "timestamp": at,
                "feedbackId": str(uuid4()),
                "reportingMTA": agent,
            }
        }
    if kind == "Complaint":
        return {
            "complaint": {
                "complainedRecipients": [{"emailAddress": one} for one in to],
                "timestamp": at,
                "feedbackId": str(uuid4()),
                "complaintSubType": None,
                "complaintFeedbackType": "abuse",
                "userAgent": "sandbox",
                "arrivalDate": at,
            }
        }
    if kind == "Reject":
        return {"reject": {"reason": "Bad content"}}
    if kind == "Rendering Failure":
        return {"failure": {"templateName": "inline", "errorMessage": "data lacks an attribute"}}
    delayed = [{"emailAddress": one, "status": "4.4.1", "diagnosticCode": "later"} for one in to]
    return {
        "deliveryDelay": {
            "delayType": "TransientCommunicationFailure",
            "timestamp": at,
            "expirationTime": at,
            "delayedRecipients": delayed,
            "reportingMTA": agent,
        }
    }


def _text_event(entry: Entry, kind: str, now: datetime) -> dict[str, Any]:
    requested = datetime.fromisoformat(entry.at)
    return {
        "eventType": kind,
        "eventVersion": "1.0",
        "eventTimestamp": int(now.timestamp() * 1000),
        "isFinal": kind not in _TEXT_ON_THE_WAY,
        "originationPhoneNumber": entry.source,
        "destinationPhoneNumber": entry.to,
        "isoCountryCode": "CA",
        "carrierName": "Sandbox",
        "messageId": entry.message_id,
        "messageRequestTimestamp": int(requested.timestamp() * 1000),
        "messageEncoding": "GSM",
        "messageType": "TRANSACTIONAL",
        "messageStatus": kind.removeprefix("TEXT_"),
        "messageStatusDescription": _TEXT_DESCRIPTIONS[kind],
        "context": entry.tags,
        "totalMessageParts": 1,
        "totalMessagePrice": 0.0,
        "totalCarrierFee": 0.0,
    }
