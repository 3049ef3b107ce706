"""Renders a claimed row: decrypt it, look up its service and template, render. No network I/O."""

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from email.header import Header
from email.utils import formataddr
from functools import lru_cache
from typing import Any
from uuid import UUID

from courant import clock, contracts, recipients
from courant.contracts import ENCODE, Content, Malformed, Outcome, decoder
from courant.crypto import KeyMissing, KeyRing, Undecryptable
from courant.directory.entries import Directory, Service, Template
from courant.recipients import Unusable
from courant.render import email, sms, templates
from courant.render.markdown import escape
from courant.render.page import PREVIEW_MAX
from courant.render.templates import ListStyle, Parsed, TemplateVersion
from courant.runbooks import Runbook
from courant.topics import Channel
from deliverer.calls import CallEntry, ClaimedRow, Deferred, Rejected, RenderedEmail, RenderedSms

log = logging.getLogger(__name__)

INACTIVE = "service: is not active"
EMPTIED = "content: was emptied, its retention is over"
PREPARED_MAX = 10_000
"""Prepared template versions that are cached; each takes a few kilobytes."""
DIRECTORY_TRIES_MAX = 3
"""Tries for an entry that the directory lacks although it is complete."""
DIRECTORY_QUIET = timedelta(seconds=75)
"""A directory that got no new entry for this long is complete. One that is rebuilt gets some
hundred entries each half minute (recovery's task `directory`)."""
DIRECTORY_WAIT = timedelta(seconds=20)
KEY_WAIT = timedelta(minutes=1)
"""How long a message waits whose key this process lacks, without blame; then it is tried again."""
SOURCE_CHARACTERS_MAX = 320
"""The longest From header that SES accepts, encoded and with its address."""
ENTRY_BYTES = 600  # the rest of a bulk entry: address, tags, field names

open_content = decoder(Content)


class NotInDirectory(Exception):
    """The directory has no such entry, or has not read it yet; the message names its kind."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The senders to use for a service that has none of its own."""

    email_domain: str
    sms_origin: str


class MessageRenderer:
    """Renders messages and caches each template version. Safe to use from any thread."""

    def __init__(self, directory: Directory, ring: KeyRing, defaults: Defaults) -> None:
        self._directory, self._ring, self._defaults = directory, ring, defaults
        self._email_templates: dict[tuple[UUID, int], email.Prepared] = {}
        self._sms_templates: dict[tuple[UUID, int], Parsed] = {}

    def render(self, row: ClaimedRow, channel: Channel) -> CallEntry | Deferred | Rejected:
        """Return the entry to send for a row, or the outcome of a row that cannot be sent."""
        if not row.sealed:  # its claim was lost, and then its row ended and was emptied
            return Rejected(EMPTIED, Outcome.UNSENDABLE)
        try:
            content = contracts.read(open_content, self._ring.decrypt(row.sealed, row.id.bytes))
            service, template = self._look_up(row)
            sender = self._sender(row, channel)
            if not service.active:
                return Rejected(INACTIVE, Outcome.UNSENDABLE)
            values = templates.normalise(content.personalisation)
            if channel is Channel.EMAIL:
                return self._email_entry(row, content.to, values, service, template, sender)
            return self._sms_entry(row, content.to, values, service, template, sender)
        except NotInDirectory as error:
            reason = f"{error}: is not in the directory"
            grown_at = self._directory.grown_at
            if grown_at is None or clock.now() - grown_at < DIRECTORY_QUIET:
                return Deferred(f"{reason} yet", retry_after=DIRECTORY_WAIT)
            return Deferred(
                reason, blames=True, tries_max=DIRECTORY_TRIES_MAX, final_outcome=Outcome.UNSENDABLE
            )
        except Unusable as error:
            return Rejected(f"recipient: {error}", Outcome.UNSENDABLE)
        except KeyMissing as error:
            return Deferred(str(error), retry_after=KEY_WAIT)
        except (Undecryptable, Malformed) as error:
            return Rejected(str(error), Outcome.UNSENDABLE)
        except Exception as error:  # noqa: BLE001  # a row that breaks rendering must not stop its lane
            reason = f"content: cannot be rendered, {type(error).__name__}"
            fields = {"id": row.id, "reason": reason, "runbook": Runbook.RENDERING_FAILED}
            log.error("message cannot be rendered", extra=fields)
            return Rejected(reason, Outcome.UNSENDABLE)

    def _look_up(self, row: ClaimedRow) -> tuple[Service, Template]:
        service = self._directory.services.get(row.service_id)
        template = self._directory.template(row.template_id, row.template_version)
        if not service:
            raise NotInDirectory("service")
        if not template:
            raise NotInDirectory("template")
        return service, template

    def _sender(self, row: ClaimedRow, channel: Channel) -> str | None:
        if row.sender_id:
            sender = self._directory.senders.get(row.service_id, {}).get(row.sender_id)
            if not sender:
                raise NotInDirectory("sender")
            return sender.value
        default = self._directory.default_sender(row.service_id, channel)
        return default.value if default else None

    def _email_entry(
        self,
        row: ClaimedRow,
        to: str,
        values: templates.Values,
        service: Service,
        template: Template,
        sender: str | None,
    ) -> CallEntry | Rejected:
        recipient = recipients.email(to)
        if not recipient.sendable:
            raise Unusable(recipients.BAD_EMAIL)
        rendered = email.render(self._prepared_email(template), values)
        if not rendered.text.strip():
            return Rejected("content: is empty", Outcome.UNSENDABLE)
        domain = service.sending_domain or self._defaults.email_domain
        try:
            source = mailbox(service.name, f"{service.email_from}@{domain}")
        except Unusable:
            # Not the recipient's fault: the API must not call this "No such address".
            return Rejected("sender: its From address is not valid", Outcome.UNSENDABLE)
        if sender and not is_valid_address(sender):
            return Rejected("sender: its reply-to address is not valid", Outcome.UNSENDABLE)
        data, size_bytes = bulk_data(rendered)
        message = RenderedEmail(rendered.subject, rendered.text, rendered.html, data)
        return CallEntry(row, source, sender, recipient.wire, message, size_bytes)

    def _sms_entry(
        self,
        row: ClaimedRow,
        to: str,
        values: templates.Values,
        service: Service,
        template: Template,
        sender: str | None,
    ) -> CallEntry | Rejected:
        recipient = recipients.phone(to)
        filled = templates.fill(self._parsed_sms(template), values, ListStyle.WORDS)
        if not sms.content(filled):
            return Rejected("content: is empty", Outcome.UNSENDABLE)
        body = sms.sent(filled, service.name if service.prefix_sms else None)
        source = sender or self._defaults.sms_origin
        return CallEntry(row, source, None, recipient.number, RenderedSms(body), len(body))

    def _prepared_email(self, template: Template) -> email.Prepared:
        key = template.id, template.version
        if key not in self._email_templates:
            clear_if_full(self._email_templates)
            self._email_templates[key] = email.prepare(template_version(template))
        return self._email_templates[key]

    def _parsed_sms(self, template: Template) -> Parsed:
        key = template.id, template.version
        if key not in self._sms_templates:
            clear_if_full(self._sms_templates)
            self._sms_templates[key] = templates.parse(template.body)
        return self._sms_templates[key]


def clear_if_full(cache: MutableMapping[tuple[UUID, int], Any]) -> None:
    """Empty a full cache. Threads that hold a cached value keep it."""
    if len(cache) >= PREPARED_MAX:
        cache.clear()


def template_version(template: Template) -> TemplateVersion:
    """Return the template in the form that the render package takes."""
    return TemplateVersion(
        template.id,
        template.version,
        template.service_id,
        template.channel.value,
        template.name,
        template.subject,
        template.body,
    )


def bulk_data(rendered: email.Rendered) -> tuple[str, int]:
    """Return a bulk entry's template data as JSON, and an upper bound of its bytes in the call.

    The client embeds this JSON text as a string in JSON. Quotes and backslashes are doubled, and a
    character outside ASCII takes six bytes instead of two or three.
    """
    preview = " ".join(rendered.text[: 2 * PREVIEW_MAX].split())[:PREVIEW_MAX]
    raw = ENCODE(
        {
            "s": rendered.subject,
            "t": rendered.text,
            "h": rendered.html,
            "e": escape(rendered.subject),
            "p": escape(preview),
        }
    )
    data = raw.decode()
    doubled = raw.count(b'"') + raw.count(b"\\")
    return data, len(data) + doubled + 5 * (len(raw) - len(data)) + ENTRY_BYTES


@lru_cache(maxsize=10_000)
def mailbox(name: str, address: str) -> str:
    """Return a display name and an address as one ASCII line of a header.

    A name that does not fit into SOURCE_CHARACTERS_MAX is cut. Raises Unusable if the address is
    not valid, or too long by itself.
    """
    sender = recipients.email(address)
    if not sender.sendable or len(sender.wire) > SOURCE_CHARACTERS_MAX:
        raise Unusable(recipients.BAD_EMAIL)
    address = address if address.isascii() else sender.wire
    name = " ".join(name.split())[:SOURCE_CHARACTERS_MAX]
    header = encoded(name, address)
    while name and len(header) > SOURCE_CHARACTERS_MAX:
        # An encoded character takes twelve of the header at most.
        excess = len(header) - SOURCE_CHARACTERS_MAX
        name = name[: -max(1, excess // 12)].rstrip()
        header = encoded(name, address)
    return header


@lru_cache(maxsize=10_000)
def is_valid_address(text: str) -> bool:
    """Return whether a provider takes this as an address."""
    try:
        return recipients.email(text).sendable
    except Unusable:
        return False


def encoded(name: str, address: str) -> str:
    """Return a display name and an address as a header's value: quoted, or RFC 2047's words."""
    if name.isascii():
        return formataddr((name, address))
    words = Header(name, "utf-8").encode(linesep="\n").replace("\n", "")
    return f"{words} <{address}>"
