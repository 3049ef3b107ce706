"""The checks of a notification, each a function without I/O and without a clock.

A check returns None, or the answer that rejects the request. `handle.Accept` calls them in the
order in which the contract reports failures.
"""

import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from courant import recipients
from courant.contracts import KeyType
from courant.directory.entries import Sender, Service, Template
from courant.recipients import Email, Phone, Unusable
from courant.render import sms
from courant.topics import Channel
from ingest.accept.content import CompiledTemplate
from ingest.http.answers import Answer, bad_request, error_answer, unavailable, validation_error
from ingest.http.fields import SENDER_FIELD

SIZE_MAX = 51_200  # characters of all values except files, printed as text
FILES_MAX = 10
FILE_BYTES_MAX = 10 * 1024 * 1024
INTERNATIONAL = "international_sms"
DOCUMENTS = "upload_document"
CHANNEL_NAMES = {Channel.EMAIL: "emails", Channel.SMS: "text messages"}
SUSPENDED = error_answer(403, "BadRequestError", "Service is suspended")
TOO_LONG = bad_request(
    f"Content for template has a character count greater than the limit of {sms.LIMIT}"
)
BLANK = "Message is empty or just whitespace"
NOT_ABROAD = "Cannot send to international mobile numbers"
NO_TEMPLATE = bad_request("Template not found")


def check_size(personalisation: Mapping[str, Any]) -> Answer | None:
    """Check the size of the values, the number of files and their content. Reports all faults."""
    values = [value for value in personalisation.values() if type(value) is not dict]
    faults = [fault] if (fault := oversize(values)) else []
    files = {name: value for name, value in personalisation.items() if type(value) is dict}
    if len(files) > FILES_MAX:
        faults.append(
            f"File number exceed allowed limits of {FILES_MAX} with number of {len(files)}."
        )
    else:
        faults += [fault for name, file in files.items() if (fault := file_fault(name, file))]
    return validation_error(*faults) if faults else None


def oversize(values: Iterable[object]) -> str | None:
    """Return the fault if values (not files) have too many characters together, or None."""
    characters = sum(len(value if type(value) is str else str(value)) for value in values)
    if characters <= SIZE_MAX:
        return None
    return (
        f"Personalisation variables size of {characters} bytes is greater than allowed limit "
        f"of {SIZE_MAX} bytes."
    )


def file_fault(name: str, file: Mapping[str, str]) -> str | None:
    """Return the fault of a file's content, or None."""
    try:
        size_bytes = len(binascii.a2b_base64(file["file"].encode()))
    except binascii.Error:
        return f"{name} : Incorrect padding : Error decoding base64 field"
    if size_bytes <= FILE_BYTES_MAX:
        return None
    return (
        f"{name} : File size for {file.get('filename', '')} is {size_bytes} and greater than "
        f"allowed limit of {FILE_BYTES_MAX}."
    )


def check_active(service: Service) -> Answer | None:
    """Check that the service is not suspended."""
    return None if service.active else SUSPENDED


def check_channel(service: Service, channel: Channel) -> Answer | None:
    """Check that the service is not suspended and may use the channel."""
    if not service.active:
        return SUSPENDED
    if channel not in service.permissions:
        return bad_request(f"Service is not allowed to send {CHANNEL_NAMES[channel]}")
    return None


def check_template(template: Template | None, service: Service, channel: Channel) -> Answer | None:
    """Check that the template exists and that this service may send it on this channel."""
    if template is None or template.service_id != service.id or template.hidden:
        return NO_TEMPLATE
    if template.channel is not channel:
        return bad_request(
            f"{template.channel} template is not suitable for {channel} notification"
        )
    if template.archived:
        return bad_request(f"Template {template.id} has been deleted")
    return None


def check_placeholders(compiled: CompiledTemplate, missing: Sequence[str]) -> Answer | None:
    """Check that no placeholder is missing a value."""
    if not missing:
        return None
    names = ", ".join(missing)
    return bad_request(f"Missing personalisation for template ID {compiled.template.id}: {names}")


def check_text(service: Service, channel: Channel, text: str) -> Answer | None:
    """Check that the text is not blank and, for an SMS, not too long."""
    prefix = service.name if service.prefix_sms else None
    if channel is Channel.SMS and sms.too_long(text, prefix):
        return TOO_LONG
    return None if text.strip() else bad_request(BLANK)


def check_sender(
    sender: Sender | None, id: UUID, service: Service, channel: Channel
) -> Answer | None:
    """Check the sender, or the reply-to address, that the client chose."""
    if sender and sender.channel is channel and not sender.archived:
        return None
    return bad_request(
        f"{SENDER_FIELD[channel]} {id} does not exist in database for service id {service.id}"
    )


def check_recipient(
    recipient: Email | Phone,
    service: Service,
    key_type: KeyType,
    safelist: frozenset[str],
    simulated: frozenset[str],
    docs_url: str,
) -> Answer | None:
    """Check that a key of this type may send to this recipient."""
    trial = service.restricted and key_type is KeyType.NORMAL
    if (trial or key_type is KeyType.TEAM) and not (
        recipients.among(recipient, safelist) or recipients.among(recipient, simulated)
    ):
        if trial:
            return bad_request(
                "Can’t send to this recipient when service is in trial mode – see "
                f"{docs_url}/en/keys.html#live"
            )
        return bad_request(
            f"Can’t send to this recipient using a team-only API key (service {service.id}) - see "
            f"{docs_url}/en/keys.html#team-and-safelist"
        )
    abroad = isinstance(recipient, Phone) and recipient.international
    if abroad and INTERNATIONAL not in service.permissions:
        return bad_request(NOT_ABROAD)
    return None


def check_files(personalisation: Mapping[str, Any], service: Service) -> Answer | None:
    """Reject files: without the permission as not allowed, with it because no store exists yet."""
    if not any(type(value) is dict for value in personalisation.values()):
        return None
    if DOCUMENTS not in service.permissions:
        return bad_request("Service is not allowed to send documents")
    return unavailable("error connecting to document download")


def from_number(sender: Sender | None) -> str | None:
    """Return a sender as the API shows it: a telephone number in E.164, anything else as it is."""
    if sender is None:
        return None
    try:
        return recipients.phone(sender.value).number
    except Unusable:
        return sender.value
