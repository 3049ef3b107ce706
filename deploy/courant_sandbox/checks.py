"""Checks that AWS makes of a call and boto3 does not; each raises Refused with AWS's wording."""

import re
from collections.abc import Iterable
from email.utils import parseaddr

from courant_sandbox.messages import Refused

ENTRIES_MAX = 50
RECIPIENTS_MAX = 50
HEADERS_MAX = 15
TEMPLATE_DATA_CHARACTERS_MAX = 262_144
INLINE_TEMPLATE_BYTES_MAX = 1024 * 1024
MESSAGE_BYTES_MAX = 40 * 1024 * 1024
ADDRESS_CHARACTERS_MAX = 320
SMS_CHARACTERS_MAX = 1_600
CONTEXT_PAIRS_MAX = 5
CONTEXT_VALUE_CHARACTERS_MAX = 800
TIME_TO_LIVE_SECONDS = range(5, 259_201)

_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}"
)
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,126}")
_HEADER_VALUE = re.compile(r"[ -~]{1,995}")
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_CONTEXT_KEY = re.compile(r"\S{1,100}")


def bad_request(message: str) -> Refused:
    return Refused("BadRequestException", message)


def address(value: str | None) -> str:
    """Accept an address with or without a display name; ASCII only, as SES requires."""
    if not value:
        raise bad_request("Missing required field: address.")
    if _ADDRESS.fullmatch(value):
        return value
    if not value.isascii():
        raise bad_request("Address contains characters other than ASCII")
    if any(character < " " or character == "\x7f" for character in value):
        raise bad_request("Local address contains control or whitespace")
    bare = parseaddr(value)[1]
    if "@" not in bare:
        raise bad_request("Missing final '@domain'")
    if len(value) > ADDRESS_CHARACTERS_MAX or not _ADDRESS.fullmatch(bare):
        raise bad_request("Illegal address")
    return value


def recipients(values: list[str]) -> list[str]:
    if not values:
        raise bad_request("Destination must contain at least one recipient.")
    if len(values) > RECIPIENTS_MAX:
        raise bad_request(f"Recipient count exceeds {RECIPIENTS_MAX}.")
    return [address(value) for value in values]


def entries(count: int) -> None:
    if not 1 <= count <= ENTRIES_MAX:
        raise bad_request(f"The number of bulk entries must be from 1 to {ENTRIES_MAX}.")


def tags(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for name, value in pairs:
        if not _TAG.fullmatch(name):
            raise bad_request(
                "Invalid tag name: only alphanumeric ASCII characters, '_', or '-', at most 256."
            )
        if not _TAG.fullmatch(value):
            raise bad_request(
                f"Invalid tag value of <{name}>: only alphanumeric ASCII characters, '_', or '-', "
                "at most 256."
            )
        checked[name] = value
    return checked


def headers(pairs: list[tuple[str, str]]) -> None:
    if len(pairs) > HEADERS_MAX:
        raise bad_request(f"The number of headers exceeds {HEADERS_MAX}.")
    for name, value in pairs:
        if not _HEADER_NAME.fullmatch(name):
            raise bad_request("Invalid header name.")
        if not _HEADER_VALUE.fullmatch(value):
            raise bad_request(f"Invalid value of header <{name}>.")


def template_data(text: str) -> str:
    if len(text) > TEMPLATE_DATA_CHARACTERS_MAX:
        raise bad_request(f"Template data exceeds {TEMPLATE_DATA_CHARACTERS_MAX} characters.")
    return text


def message_size(size_bytes: int) -> None:
    if size_bytes > MESSAGE_BYTES_MAX:
        raise Refused(
            "MessageRejected", f"Message length is more than {MESSAGE_BYTES_MAX} bytes long."
        )


def invalid(message: str, reason: str = "FIELD_VALIDATION_FAILED") -> Refused:
    return Refused("ValidationException", message, reason=reason)


def number(value: str) -> str:
    if not _NUMBER.fullmatch(value):
        raise invalid("DestinationPhoneNumber is not in E.164 format.", "INVALID_PARAMETER")
    return value


def text_body(value: str) -> str:
    if not value.strip() or len(value) > SMS_CHARACTERS_MAX:
        raise invalid(f"MessageBody must be 1 to {SMS_CHARACTERS_MAX} characters, not only blanks.")
    return value


def context(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > CONTEXT_PAIRS_MAX:
        raise invalid(f"Context takes at most {CONTEXT_PAIRS_MAX} pairs.")
    for key, value in pairs.items():
        if not _CONTEXT_KEY.fullmatch(key) or not 1 <= len(value) <= CONTEXT_VALUE_CHARACTERS_MAX:
            raise invalid("Context keys are 1 to 100 characters, values 1 to 800.")
    return pairs
