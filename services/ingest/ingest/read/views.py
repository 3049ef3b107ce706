"""A stored notification as the API shows it: status, description, times and content."""

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
# A status that is missing here is its own description.
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
    """A stored notification."""

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
    """Return the API's name for a state."""
    if state is State.CLAIMED:
        return "sending"
    # To clients an SMS is sent once the provider has it, whether or not a receipt follows.
    if state is State.SENDING and channel is Channel.SMS:
        return "sent"
    return str(state)


def states(name: str) -> list[tuple[State, Channel]]:
    """Return the stored states, each with its channel, that the API calls by this name."""
    names = {*FAILED, "failed"} if name == "failed" else {name}
    return [
        (state, channel)
        for state in State
        for channel in Channel
        if status(channel, state) in names
    ]


def description(channel: Channel, status: str, reason: str | None) -> str:
    """Return the API's description of a status."""
    if channel is Channel.EMAIL and status == "permanent-failure" and reason in BLOCKED:
        return "Blocked"
    if status == "provider-failure" and reason and any(word in reason for word in NO_ROUTE_ABROAD):
        return "Can't send to this international number"
    return DESCRIPTIONS[channel].get(status, status)


def time(at: datetime | None) -> str | None:
    """Return a time as the API prints it, or None for no time."""
    # Not strftime, which took half of the time for a report's row.
    return f"{at.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}Z" if at else None


class View:
    """Shows stored notifications to the services that they belong to."""

    def __init__(
        self, directory: Directory, template_cache: TemplateCache, key_ring: KeyRing
    ) -> None:
        self._directory = directory
        self._template_cache = template_cache
        self._key_ring = key_ring

    def notification(self, row: NotificationRow, base: str) -> dict[str, object]:
        """Return a row as the API shows it. Content that cannot be decrypted is null."""
        channel = Channel(row.channel)
        to, body, subject = self._content(row)
        shown_status = status(channel, State(row.state))
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
            "status": shown_status,
            "status_description": description(channel, shown_status, row.reason),
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
            "completed_at": time(row.state_at) if shown_status in COMPLETED else None,
            "scheduled_for": time(row.scheduled_for),
            "postage": None,
        }

    def _content(self, row: NotificationRow) -> tuple[str | None, str | None, str | None]:
        try:
            decrypted = self._key_ring.decrypt(row.sealed, owner=row.id.bytes)
            content = msgspec.json.decode(decrypted, type=Content)
        except (Undecryptable, msgspec.DecodeError):
            return None, None, None
        template = self._directory.template(row.template_id, row.template_version)
        if template is None:
            return content.to, None, None
        compiled = self._template_cache.compiled(template)
        values = templates.normalise(content.personalisation)
        return content.to, compiled.text(values), compiled.escaped_subject(values)
