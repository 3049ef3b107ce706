"""Classifies the providers' events by their tables of bounces and statuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from courant.contracts import ReceiptKind

TEXT_MAX = 1000
SUPPRESSED = "The email address is on our email provider suppression list"
ON_OUR_LIST = "The email address is on the GC Notify suppression list"
BAD_FILES = "The email was rejected because of its attachments"
ON_ACCOUNT = "OnAccountSuppressionList"
# By type of bounce: the kind of receipt, the prefix of the reason, and the texts by subtype.
BOUNCES: dict[str, tuple[ReceiptKind, str, dict[str, str | None]]] = {
    "Permanent": (
        ReceiptKind.BOUNCED,
        "hard-bounce",
        {"General": None, "NoEmail": None, "Suppressed": SUPPRESSED, ON_ACCOUNT: ON_OUR_LIST},
    ),
    "Transient": (
        ReceiptKind.DELAYED,
        "soft-bounce",
        {
            "General": None, "MailboxFull": None, "MessageTooLarge": None,
            "ContentRejected": None, "AttachmentRejected": BAD_FILES,
        },
    ),
}  # fmt: skip
UNKNOWN_SUBTYPE = "unknown-bounce-subtype"
# SES posts one of these, the second as plain text, when publishing starts.
SUBSCRIBED = "AmazonSnsSubscriptionSucceeded"
VALIDATED = "Successfully validated SNS topic"
INBOUND_SMS = "inbound SMS are not supported yet"
# Events of these types do not change a notification.
IGNORED_TYPES = frozenset({"DeliveryDelay", "Open", "Click", "Subscription", SUBSCRIBED})
# The first entry whose words a description contains decides, so the order matters.
SMS_FAILURES = (
    ("blocked as spam", ReceiptKind.BOUNCED),
    ("destination is on a blocked list", ReceiptKind.BOUNCED),
    ("blocked", ReceiptKind.DELAYED),
    ("invalid", ReceiptKind.BOUNCED),
    ("is opted out", ReceiptKind.OPTED_OUT),
    ("unknown error", ReceiptKind.BOUNCED),
    ("exceed max price", ReceiptKind.DELAYED),
    ("phone carrier is currently unreachable/unavailable", ReceiptKind.DELAYED),
)
SMS_IN_TRANSIT = frozenset({"QUEUED", "SENT", "PENDING"})
AHEAD_MAX = timedelta(days=1)
"""An event that happened later than this after its post was written has no usable time."""


class CamelCase(msgspec.Struct, frozen=True, rename="camel"):
    """A part of an event. Fields that are not declared are ignored."""


class Timed(CamelCase, frozen=True):
    timestamp: object = None  # of any type, because a time that cannot be read costs no receipt


class Mail(Timed, frozen=True):
    message_id: str = ""
    tags: dict[str, list[str]] = {}


class Delivery(Timed, frozen=True):
    provider_response: str = ""  # only of SNS's SMS


class SnsText(Timed, frozen=True):
    message_id: str = ""


class Bounce(Timed, frozen=True):
    bounce_type: str = ""
    bounce_sub_type: str = ""
    bounced_recipients: list[dict[str, object]] = []


class Complaint(Timed, frozen=True):
    complaint_sub_type: str | None = None
    complaint_feedback_type: str | None = None


class Reject(CamelCase, frozen=True):
    reason: str = ""


class Failure(CamelCase, frozen=True):
    error_message: str = ""


class Event(CamelCase, frozen=True):
    """An event of SES (it has `mail`) or of End User Messaging (it has `messageStatus`)."""

    event_type: str | None = None
    notification_type: str | None = None  # SES's, if not a configuration set but the identity posts
    mail: Mail | None = None
    delivery: Delivery = Delivery()
    bounce: Bounce = Bounce()
    complaint: Complaint = Complaint()
    reject: Reject = Reject()
    failure: Failure = Failure()
    message_id: str | None = None
    message_status: str | None = None
    message_status_description: str = ""
    event_timestamp: object = None  # milliseconds since 1970
    is_final: bool = False
    context: dict[str, str] = {}
    inbound_message_id: str | None = None  # a text that somebody sent to a number of ours
    # A delivery line of SNS's own SMS, which somebody carries from CloudWatch to our topic.
    notification: SnsText | None = None
    status: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptDetails:
    """The contents of a receipt. Without our tags it has no id and no attempt."""

    id: UUID | None
    attempt: int
    kind: ReceiptKind
    message_id: str
    reason: str | None
    response: str | None
    happened_at: datetime
    is_auto_reply: bool = False  # an out-of-office reply looks like this, and little else does


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that makes no receipt and may be forgotten, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An event that must not be forgotten although nothing can be done with it yet, and why."""

    reason: str


def read_event(message: str, posted_at: datetime) -> ReceiptDetails | Ignored | Unread:
    """Read an event's text. Any text is allowed and none raises.

    `posted_at` is when SNS wrote the post. It counts if the event has no time of its own.
    """
    if message.startswith(VALIDATED):
        return Ignored("a notice of SES")
    try:
        event = msgspec.json.decode(message, type=Event)
    except (msgspec.DecodeError, RecursionError):
        return Unread("not an event that can be read")
    if (event.event_type or event.notification_type) in IGNORED_TYPES:
        return Ignored("type of event that changes nothing")
    if event.inbound_message_id:
        return Unread(INBOUND_SMS)
    tags: dict[str, str] = {}
    if event.mail and event.mail.message_id:
        tags = {name: values[0] for name, values in event.mail.tags.items() if values}
        classified, message_id = classify_email(event), event.mail.message_id
    elif event.message_status and event.message_id:
        tags, message_id = event.context, event.message_id
        classified = classify_sms(event)
    elif event.notification and event.notification.message_id:
        message_id, classified = event.notification.message_id, classify_sns_text(event)
    else:
        return Unread("not an event that is known")
    if isinstance(classified, Unread):
        return classified
    id, attempt = attempt_of(tags)
    kind, reason, response = classified
    cut = [text[:TEXT_MAX] if text else None for text in (message_id, reason, response)]
    at = happened_at(event, posted_at)
    auto_reply = is_auto_reply(event)
    return ReceiptDetails(id, attempt, kind, cut[0] or "", cut[1], cut[2], at, auto_reply)


def attempt_of(tags: Mapping[str, str]) -> tuple[UUID, int] | tuple[None, int]:
    """Return the notification and the attempt that our tags name; None and 0 without them."""
    try:
        id, attempt = UUID(tags["courant_id"]), int(tags["courant_attempt"])
    except (KeyError, ValueError):
        return None, 0
    return (id, attempt) if 1 <= attempt < 2**31 else (None, 0)


def happened_at(event: Event, posted_at: datetime) -> datetime:
    """Return when an event happened, by the provider's clock."""
    if event.mail:
        timed: dict[str | None, Timed] = {
            "Delivery": event.delivery,
            "Bounce": event.bounce,
            "Complaint": event.complaint,
        }
        own = time_of(timed.get(event.event_type or event.notification_type, event.mail).timestamp)
    elif event.notification:
        own = time_of(event.notification.timestamp)
    else:
        own = time_of(event.event_timestamp)
    return own if own and own <= posted_at + AHEAD_MAX else posted_at


def time_of(value: object) -> datetime | None:
    """Read a time: text in ISO 8601, or milliseconds since 1970. Without a zone it is UTC."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, int):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def is_auto_reply(event: Event) -> bool:
    """Return whether a bounce is what SES makes of an out-of-office reply.

    That is a transient bounce without a cause and without `action`, which only a mail server's
    report has.
    """
    bounce = event.bounce
    return (
        (event.event_type or event.notification_type) == "Bounce"
        and (bounce.bounce_type, bounce.bounce_sub_type) == ("Transient", "General")
        and not any(recipient.get("action") for recipient in bounce.bounced_recipients)
    )


Classification = tuple[ReceiptKind, str | None, str | None]


def classify_email(event: Event) -> Classification | Unread:
    """Classify an event of SES: the kind of receipt, the reason, the text that the API shows."""
    match event.event_type or event.notification_type:
        case "Send":
            return ReceiptKind.SENT, None, None
        case "Delivery":
            return ReceiptKind.DELIVERED, None, None
        case "Bounce":
            return classify_bounce(event.bounce)
        case "Complaint" if event.complaint.complaint_sub_type == ON_ACCOUNT:
            return ReceiptKind.BOUNCED, f"hard-bounce/{kebab(ON_ACCOUNT)}", ON_OUR_LIST
        case "Complaint":
            return (
                ReceiptKind.COMPLAINED,
                kebab(event.complaint.complaint_feedback_type or "complaint"),
                None,
            )
        case "Reject":
            return ReceiptKind.BOUNCED, "rejected/bad-content", None
        case "Rendering Failure":
            return ReceiptKind.BOUNCED, "rejected/rendering-failure", None
    return Unread("not an event that is known")


def classify_bounce(bounce: Bounce) -> Classification:
    """Classify a bounce by its type. Unknown subtypes are allowed, because SES adds new ones."""
    if bounce.bounce_type == "Undetermined":
        return ReceiptKind.DELAYED, "soft-bounce/general", None
    if bounce.bounce_type not in BOUNCES:
        return ReceiptKind.DELAYED, f"unknown-bounce/{UNKNOWN_SUBTYPE}", None
    kind, prefix, subtypes = BOUNCES[bounce.bounce_type]
    known = bounce.bounce_sub_type in subtypes
    subtype = kebab(bounce.bounce_sub_type) if known else UNKNOWN_SUBTYPE
    return kind, f"{prefix}/{subtype}", subtypes.get(bounce.bounce_sub_type)


def classify_sms(event: Event) -> Classification:
    """Classify an event of End User Messaging."""
    status, words = event.message_status or "", event.message_status_description
    reason = status.lower().replace("_", "-")
    if status in SMS_IN_TRANSIT or (status == "SUCCESSFUL" and not event.is_final):
        return ReceiptKind.SENT, reason, None
    if status in ("DELIVERED", "SUCCESSFUL"):
        return ReceiptKind.DELIVERED, reason, words
    return sms_failure(words), reason, words


def classify_sns_text(event: Event) -> Classification:
    """Classify a delivery line of an SMS that was sent by SNS."""
    words = event.delivery.provider_response
    delivered = event.status == "SUCCESS"
    return ReceiptKind.DELIVERED if delivered else sms_failure(words), event.status.lower(), words


def sms_failure(words: str) -> ReceiptKind:
    """Return what the provider's description of a failure means."""
    lower = words.lower()
    return next((kind for part, kind in SMS_FAILURES if part in lower), ReceiptKind.BOUNCED)


def kebab(name: str) -> str:
    """Write `MailboxFull` as `mailbox-full`."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")
