"""Who a notification goes to: is the text usable, and what is it once cleaned.

The text as given is kept, shown and called back; the cleaned form is what lists are compared with
and what is sent to. Nothing here looks anything up.
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
HOSTS_KEPT = 4_096  # hosts whose check is remembered; a few name most of the world's mailboxes
NUMBER_TEXT_MAX = 1_000  # characters that are searched for a number, which costs up to 12 ms
NUMBER_MIN = 8  # characters of an E.164 number, the plus included
REGION = "US"  # whose national form is understood; its country code, 1, is "local"
LOCAL_CODE = 1
NOT_SERVED = frozenset({800, 850, 882, 979})  # country codes that no provider of ours reaches

UNSEEN = dict.fromkeys(map(ord, "\u180e\u200b\u200c\u200d\u2060\ufeff"))
ADDRESS = re.compile(r"([A-Za-zÀ-ÿ0-9.!#$%&'*+/=?^_`{|}~-]+)@([^\s@]+)")
LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
TOP = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]+")
# Forms in which a North American number is the whole text, so that there is nothing to search for.
LOCAL_FORM = re.compile(
    r"(?:\+?1)?([2-9][0-9]{9})"
    r"|(?:\+1[ -])?([2-9][0-9]{2})[ -]([0-9]{3})[ -]([0-9]{4})"
    r"|\(([2-9][0-9]{2})\) ([0-9]{3})-([0-9]{4})"
)
NOT_IN_A_KEY = str.maketrans("", "", " _-")


class Unusable(Exception):
    """The text names nobody a message can go to; its message says why, without a field's name."""


@dataclass(frozen=True, slots=True)
class Email:
    """An address: `address` to compare with and keep, `wire` to hand to a mail system.

    They differ in the host, which travels in Punycode. An address with letters outside ASCII in
    front of its @ is valid but not `sendable`.
    """

    given: str
    address: str
    wire: str
    sendable: bool


@dataclass(frozen=True, slots=True)
class Phone:
    """A telephone number in E.164; `international` where its country code is not 1."""

    given: str
    number: str
    international: bool


def cleaned(text: str) -> str:
    """Give a text without what cannot be seen: zero-width characters, white space at its ends."""
    return (text if text.isascii() else text.translate(UNSEEN)).strip()


def email(text: str) -> Email:
    """Read an email address, or raise Unusable."""
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
    """Give a lower-case host as it travels, in Punycode where needed; None where it is no host."""
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
    """Find the first valid telephone number in a text, or raise Unusable."""
    # The search costs 28 µs, this 2: most numbers are the whole text and North American.
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
    """Give the numbers that exist under country code 1, as the library's own metadata has them."""
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
    return re.compile("|".join(f"(?:{each})" for each in sorted(patterns)))


def comparable(channel: Channel, text: str) -> str:
    """Give what a recipient on a list is compared as; a text that is none stands for itself."""
    try:
        return email(text).address if channel == "email" else phone(text).number
    except Unusable:
        return text.strip().lower()


def listed(channel: Channel, texts: Iterable[str]) -> frozenset[str]:
    """Prepare a list of recipients (simulated, team, safelist) for `among`."""
    return frozenset(comparable(channel, text) for text in texts)


def among(recipient: Email | Phone, those: frozenset[str]) -> bool:
    """Say whether a recipient is on a list that `listed` prepared, in whatever spelling."""
    return (recipient.address if isinstance(recipient, Email) else recipient.number) in those


def simulated(recipient: Email | Phone, those: frozenset[str]) -> bool:
    """Say whether a recipient is one of the simulated ones, for whom nothing is stored or sent."""
    return among(recipient, those)


def key(name: str) -> str:
    """Give what a placeholder or a column is known by: case, spaces, _ and - do not count."""
    return name.translate(NOT_IN_A_KEY).lower()
