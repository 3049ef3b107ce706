"""Validates and cleans recipients: email addresses and telephone numbers.

The text as given is stored, shown and sent in callbacks. The cleaned form is compared with lists
and sent to. Nothing here does a look-up.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import idna
import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumberFormat, PhoneNumberMatcher

Channel = Literal["email", "sms"]

BAD_EMAIL = "Not a valid email address"
BAD_NUMBER = "Not a valid number"
NO_NUMBER = "Not a valid international number"
TOO_SHORT = "Not enough digits"

EMAIL_MAX = 320  # characters of the whole address
HOST_MAX = 253  # characters of the host, in its ASCII form
HOSTS_KEPT = 4_096  # checked hosts that are cached; a few hosts have most of the world's mailboxes
NUMBER_TEXT_MAX = 1_000  # characters that are searched for a number; the search takes up to 12 ms
NUMBER_MIN = 8  # characters of an E.164 number, the plus included
REGION = "US"  # numbers without a country code are read as this region's
LOCAL_CODE = 1  # country code of that region; a number with any other is international
NOT_SERVED = frozenset({800, 850, 882, 979})  # country codes that none of our providers reaches

INVISIBLE = dict.fromkeys(map(ord, "\u180e\u200b\u200c\u200d\u2060\ufeff"))
ADDRESS = re.compile(r"([A-Za-zÀ-ÿ0-9.!#$%&'*+/=?^_`{|}~-]+)@([^\s@]+)")
LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
TOP = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]+")
# Forms of a text that is a North American number and nothing else, so that no search is needed.
LOCAL_FORM = re.compile(
    r"(?:\+?1)?([2-9][0-9]{9})"
    r"|(?:\+1[ -])?([2-9][0-9]{2})[ -]([0-9]{3})[ -]([0-9]{4})"
    r"|\(([2-9][0-9]{2})\) ([0-9]{3})-([0-9]{4})"
)
IGNORED_IN_KEYS = str.maketrans("", "", " _-")


class Unusable(Exception):
    """The text is not a usable recipient. The message names the reason, but no field."""


@dataclass(frozen=True, slots=True)
class Email:
    """An email address: `address` is stored and compared, `wire` is passed to a mail system.

    They differ in the host, which `wire` has in Punycode. An address with letters outside of ASCII
    in front of its @ is valid but not `sendable`.
    """

    given: str
    address: str
    wire: str
    sendable: bool


@dataclass(frozen=True, slots=True)
class Phone:
    """A telephone number in E.164; `international` if its country code is not 1."""

    given: str
    number: str
    international: bool


def cleaned(text: str) -> str:
    """Return the text without zero-width characters, and without white space at its ends."""
    return (text if text.isascii() else text.translate(INVISIBLE)).strip()


def email(text: str) -> Email:
    """Return the email address that the text is, or raise Unusable."""
    address = cleaned(text)
    match = ADDRESS.fullmatch(address)
    if match is None or ".." in address or len(address) > EMAIL_MAX:
        raise Unusable(BAD_EMAIL)
    local, host = match[1].lower(), match[2].lower()
    wire_host = ascii_host(host)
    if wire_host is None or len(local) + 1 + len(host) > EMAIL_MAX:
        raise Unusable(BAD_EMAIL)
    return Email(text, f"{local}@{host}", f"{local}@{wire_host}", local.isascii())


@lru_cache(maxsize=HOSTS_KEPT)
def ascii_host(host: str) -> str | None:
    """Return a lower-case host, in Punycode if it is not ASCII; None if the text is not a host."""
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            return None
    labels = host.split(".")
    if len(host) > HOST_MAX or len(labels) < 2 or not TOP.fullmatch(labels[-1]):
        return None
    return host if all(map(LABEL.fullmatch, labels)) else None


def phone(text: str) -> Phone:
    """Return the first valid telephone number in the text, or raise Unusable."""
    # The search takes 28 µs, this match 2 µs, and most texts are just a North American number.
    if (form := LOCAL_FORM.fullmatch(text)) is not None:
        national = "".join(filter(None, form.groups()))
        if local_numbers().fullmatch(national):
            return Phone(text, f"+1{national}", international=False)
    if ";" in text:
        raise Unusable(BAD_NUMBER)
    short = len(text) <= NUMBER_TEXT_MAX
    match = next(iter(PhoneNumberMatcher(text, REGION)), None) if short else None
    if match is None:
        raise Unusable(NO_NUMBER)
    code = match.number.country_code
    number = phonenumbers.format_number(match.number, PhoneNumberFormat.E164)
    if len(number) < NUMBER_MIN:
        raise Unusable(TOO_SHORT)
    if code in NOT_SERVED:
        raise Unusable(f"Country code {code} is not supported")
    return Phone(text, number, international=code != LOCAL_CODE)


@cache
def local_numbers() -> re.Pattern[str]:
    """Return a pattern of the numbers under country code 1, from the library's own metadata."""
    kinds = (
        "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost",
        "personal_number", "voip", "pager", "uan", "voicemail",
    )  # fmt: skip
    patterns: set[str] = set()
    for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[LOCAL_CODE]:
        metadata = PhoneMetadata.metadata_for_region(region)
        for kind in kinds if metadata else ():
            description = getattr(metadata, kind)
            if description and description.national_number_pattern:
                patterns.add(description.national_number_pattern)
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns)))


def comparable(channel: Channel, text: str) -> str:
    """Return the form in which a list's recipient is compared.

    A text that is not a recipient is only stripped and put in lower case.
    """
    try:
        return email(text).address if channel == "email" else phone(text).number
    except Unusable:
        return text.strip().lower()


def listed(channel: Channel, texts: Iterable[str]) -> frozenset[str]:
    """Return a list of recipients (simulated, team, safelist) in the form that `among` needs."""
    return frozenset(comparable(channel, text) for text in texts)


def among(recipient: Email | Phone, recipients: frozenset[str]) -> bool:
    """Return whether a recipient is on a list from `listed`, in any spelling."""
    return (recipient.address if isinstance(recipient, Email) else recipient.number) in recipients


def simulated(recipient: Email | Phone, recipients: frozenset[str]) -> bool:
    """Return whether a recipient is simulated: nothing is stored or sent for such a recipient."""
    return among(recipient, recipients)


def key(name: str) -> str:
    """Return the name of a placeholder or a column without case, spaces, _ and -."""
    return name.translate(IGNORED_IN_KEYS).lower()
