"""A row as the API shows it: the states' names, their descriptions, times, content."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from courant.contracts import Content
from courant.crypto import KeyRing, Undecryptable
from courant.directory.entries import Directory
from courant.lifecycle import State
from courant.render import templates
from courant.topics import Channel
from ingest.accept.content import TemplateCache

STATUSES = (
    "cancelled", "created", "sending", "sent", "delivered", "pending", "failed",
    "technical-failure", "temporary-failure", "permanent-failure", "provider-failure",
    "pending-virus-check", "validation-failed", "virus-scan-failed", "returned-letter",
    "pii-check-failed", "accepted", "received",
)  # fmt: skip
FAILED = (
    "technical-failure", "temporary-failure", "permanent-failure", "provider-failure",
    "validation-failed", "virus-scan-failed", "returned-letter", "pii-check-failed",
)  # fmt: skip
COMPLETED = frozenset(
    {
        "sent", "delivered", "failed", "technical-failure", "temporary-failure",
        "permanent-failure", "cancelled",
    }
)  # fmt: skip
# By channel, then the rest: a state that is not here goes by its own name.
DESCRIPTIONS = {
    Channel.EMAIL: {
        "created": "In transit", "sending": "In transit", "pending": "In transit",
        "sent": "Delivered", "delivered": "Delivered",
        "temporary-failure": "Content or inbox issue", "permanent-failure": "No such address",
        "technical-failure": "Tech issue", "failed": "Failed",
    },
    Channel.SMS: {
        "created": "In transit", "sending": "In transit", "pending": "In transit",
        "sent": "Sent", "delivered": "Delivered",
        "temporary-failure": "Carrier issue", "permanent-failure": "No such number",
        "technical-failure": "Tech issue", "failed": "Failed",
        "provider-failure": "No such number",
    },
}  # fmt: skip
BLOCKED = frozenset({"hard-bounce/suppressed", "hard-bounce/on-account-suppression-list"})
NO_ROUTE_ABROAD = ("NO_ORIGINATION_IDENTITIES_FOUND", "DESTINATION_COUNTRY_BLOCKED")


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """A notification as it is stored."""

    id: UUID
    template_id: UUID
    template_version: int
    channel: str
    reference: str | None
    sealed: bytes
    accepted_at: datetime
    scheduled_for: datetime | None
    state: str
    state_at: datetime
    sent_at: datetime | None
    reason: str | None
    response: str | None


def status(channel: Channel, state: State) -> str:
    """Give a state the name that the API has for it."""
    if state is State.CLAIMED:
        return "sending"
    # To a client a text is sent once it is handed over, whether or not a receipt is awaited.
    if state is State.SENDING and channel is Channel.SMS:
        return "sent"
    return str(state)


def states(name: str) -> list[tuple[State, Channel]]:
    """Give the stored states, by channel, that the API calls by this name."""
    names = {*FAILED, "failed"} if name == "failed" else {name}
    return [
        (state, channel)
        for state in State
        for channel in Channel
        if status(channel, state) in names
    ]


def description(channel: Channel, shown: str, reason: str | None) -> str:
    """Describe a state."""
    if channel is Channel.EMAIL and shown == "permanent-failure" and reason in BLOCKED:
        return "Blocked"
    if shown == "provider-failure" and reason and any(word in reason for word in NO_ROUTE_ABROAD):
        return "Can't send to this international number"
    return DESCRIPTIONS[channel].get(shown, shown)


def time(at: datetime | None) -> str | None:
    """Write a time as the API does."""
    # Not by strftime, which took half of the time that a report's row takes.
    return f"{at.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}Z" if at else None


class View:
    """Opens rows for those they belong to."""

    def __init__(self, directory: Directory, library: TemplateCache, ring: KeyRing) -> None:
        self._directory = directory
        self._library = library
        self._ring = ring

    def notification(self, row: NotificationRow, base: str) -> dict[str, object]:
        """Give a row as the API shows it; content that is gone by retention is null."""
        channel = Channel(row.channel)
        to, body, subject = self._content(row)
        named = status(channel, State(row.state))
        email = channel is Channel.EMAIL
        version = row.template_version
        return {
            "id": row.id,
            "reference": row.reference,
            "email_address": to if email else None,
            "phone_number": None if email else to,
            **{f"line_{n}": None for n in range(1, 7)},
            "postcode": None,
            "type": channel,
            "status": named,
            "status_description": description(channel, named, row.reason),
            "provider_response": row.response,
            "template": {
                "id": row.template_id,
                "version": version,
                "uri": f"{base}/v2/template/{row.template_id}/version/{version}",
            },
            "body": body,
            "subject": subject if email else None,
            "created_at": time(row.accepted_at),
            "created_by_name": None,
            "sent_at": time(row.sent_at),
            "completed_at": time(row.state_at) if named in COMPLETED else None,
            "scheduled_for": time(row.scheduled_for),
            "postage": None,
        }

    def _content(self, row: NotificationRow) -> tuple[str | None, str | None, str | None]:
        try:
            opened = self._ring.decrypt(row.sealed, owner=row.id.bytes)
            content = msgspec.json.decode(opened, type=Content)
        except (Undecryptable, msgspec.DecodeError):
            return None, None, None
        template = self._directory.template(row.template_id, row.template_version)
        if template is None:
            return content.to, None, None
        compiled = self._library.compiled(template)
        values = templates.normalise(content.personalisation)
        return content.to, compiled.text(values), compiled.escaped_subject(values)
