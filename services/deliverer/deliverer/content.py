"""From a claimed row to what is sent: unseal, look up, render. No network is asked."""

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from email.header import Header
from email.utils import formataddr
from functools import lru_cache
from typing import Any
from uuid import UUID

from courant import contracts, recipients
from courant.contracts import ENCODE, Content, Malformed, Outcome, decoder
from courant.crypto import KeyRing, Undecryptable
from courant.directory.entries import Directory, Service, Template
from courant.recipients import Unusable
from courant.render import email, sms, templates
from courant.render.markdown import escape
from courant.render.page import PREVIEW_MAX
from courant.render.templates import ListStyle, Parsed, TemplateVersion
from courant.topics import Channel
from deliverer.calls import CallEntry, ClaimedRow, Deferred, Rejected, RenderedEmail, RenderedSms

log = logging.getLogger(__name__)

INACTIVE = "service: is not active"
PREPARED_MAX = 10_000
"""Template versions that are kept ready, of a few kilobytes each."""
DIRECTORY_TRIES_MAX = 3
"""How often to wait for what the directory does not know yet, before it counts as wrong."""
ENTRY_BYTES = 600  # of an entry beside its template data: address, tags, names of fields

open_content = decoder(Content)


class NotInDirectory(Exception):
    """The directory does not hold it, or not yet; says what."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is sent from, where a service names nothing of its own."""

    email_domain: str
    sms_origin: str


class MessageRenderer:
    """Writes messages; keeps each template version ready. Safe to use from any thread."""

    def __init__(self, directory: Directory, ring: KeyRing, defaults: Defaults) -> None:
        self._directory, self._ring, self._defaults = directory, ring, defaults
        self._email_templates: dict[tuple[UUID, int], email.Prepared] = {}
        self._sms_templates: dict[tuple[UUID, int], Parsed] = {}

    def render(self, row: ClaimedRow, channel: Channel) -> CallEntry | Deferred | Rejected:
        """Write what is sent for a row, or say why it cannot be sent."""
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
            return Deferred(
                reason, blames=True, tries_max=DIRECTORY_TRIES_MAX, final_outcome=Outcome.UNSENDABLE
            )
        except Unusable as error:
            return Rejected(f"recipient: {error}", Outcome.UNSENDABLE)
        except (Undecryptable, Malformed) as error:
            return Rejected(str(error), Outcome.UNSENDABLE)
        except Exception as error:  # noqa: BLE001  # what breaks the renderer must not stop its lane
            reason = f"content: cannot be rendered, {type(error).__name__}"
            log.error("message cannot be rendered", extra={"id": row.id, "reason": reason})
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
            named = self._directory.senders.get(row.service_id, {}).get(row.sender_id)
            if not named:
                raise NotInDirectory("sender")
            return named.value
        usual = self._directory.default_sender(row.service_id, channel)
        return usual.value if usual else None

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
        source = mailbox(service.name, f"{service.email_from}@{domain}")
        data, size_bytes = bulk_data(rendered)
        mail = RenderedEmail(rendered.subject, rendered.text, rendered.html, data)
        return CallEntry(row, source, sender, recipient.wire, mail, size_bytes)

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


def clear_if_full(kept: MutableMapping[tuple[UUID, int], Any]) -> None:
    """Begin anew when too many are kept; who asked for one has it still."""
    if len(kept) >= PREPARED_MAX:
        kept.clear()


def template_version(template: Template) -> TemplateVersion:
    """Give the template as the renderer takes it."""
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
    """Write a bulk entry's template data, and how many bytes it takes in the call at most.

    The client writes it as a JSON text within JSON: quotes and backslashes double, and what is not
    ASCII takes six bytes for two to three.
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
    """Write a display name and an address as a header does: a line, in ASCII."""
    name = " ".join(name.split())
    if name.isascii():
        return formataddr((name, address))
    words = Header(name, "utf-8").encode(linesep="\n").replace("\n", "")
    return f"{words} <{address}>"
