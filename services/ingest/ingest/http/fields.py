"""The fields that requests may have, how each is read, and the error texts for bad values.

One answer lists all errors: first bad values, then missing fields, then unexpected ones. The
values in the texts are printed as Python prints them, without single quotes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from courant import recipients
from courant.recipients import Email, Phone, Unusable
from courant.topics import Channel
from ingest.http.answers import (
    NOT_JSON,
    REQUEST_TOO_LARGE,
    WRONG_CONTENT_TYPE,
    Answer,
    validation_error,
)

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]

PRINTED_MAX = 500  # characters of a client's value that an error text repeats
SCHEDULE_MAX = timedelta(hours=96)
DEPTH_MAX = 64  # nested arrays and objects; a valid request has four
VALUES_MAX = 100_000
"""Values in a body, counted by commas and brackets. A valid request has some hundreds.

15 MiB of `[],` decoded into 360 MiB, and that blocked the event loop for 4.7 s.
"""
UUID_FORM = re.compile(
    r"\{?[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}\}?", re.IGNORECASE
)
JSON_TYPE = re.compile(
    r"\s*application/([a-z0-9!#$&^_.+-]+\+)?json\s*(;.*)?", re.IGNORECASE | re.DOTALL
)
FILENAME_CHARACTERS = range(3, 256)
NO_NUL = "must not contain NUL characters"
NO_TIME = (
    "datetime format is invalid. It must be a valid ISO8601 date time format, "
    "https://en.wikipedia.org/wiki/ISO_8601"
)


class InvalidValue(Exception):
    """A field's value is invalid. Has one text for each fault, without the field's name."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A request to send one notification, with valid fields."""

    channel: Channel
    recipient: Email | Phone
    template_id: UUID
    personalisation: JsonObject
    reference: str | None = None
    sender_id: UUID | None = None
    scheduled_for: datetime | None = None
    scheduled_text: str | None = None  # as the client wrote it


def decode_object(content_type: str, body: bytes) -> JsonObject | Answer:
    """Return the body's JSON object, or the answer that rejects it."""
    if not JSON_TYPE.fullmatch(content_type):
        return WRONG_CONTENT_TYPE
    if too_many_values(body):
        return REQUEST_TOO_LARGE
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_JSON
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and too_deep(value):
        return NOT_JSON
    return (
        value
        if type(value) is dict
        else validation_error(f"{printed(value)} is not of type object")
    )


def too_many_values(body: bytes) -> bool:
    """Return whether a body may hold so many values that decoding it takes much memory and time."""
    return len(body) > VALUES_MAX and sum(map(body.count, (b",", b"[", b"{"))) > VALUES_MAX


def too_deep(value: object) -> bool:
    """Return whether a value is nested so deeply that printing it could exhaust Python's stack."""
    level: list[object] = [value]
    for _ in range(DEPTH_MAX):
        inner: list[Iterable[object]] = [value for value in level if isinstance(value, list)]
        inner += [value.values() for value in level if isinstance(value, dict)]
        if not inner:
            return False
        level = list(chain.from_iterable(inner))
    return True


def read_send_request(channel: Channel, body: JsonObject, now: datetime) -> SendRequest | Answer:
    """Return the request that a body makes, or the answer that lists all its errors."""
    fields = EMAIL_FIELDS if channel is Channel.EMAIL else SMS_FIELDS
    values, faults = read_fields(fields, body, now)
    if faults:
        return validation_error(*faults)
    return SendRequest(
        channel,
        values[RECIPIENT_FIELD[channel]],
        values["template_id"],
        values.get("personalisation", {}),
        values.get("reference"),
        values.get(SENDER_FIELD[channel]),
        values.get("scheduled_for"),
        body.get("scheduled_for"),
    )


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request. `read` returns its value or raises InvalidValue."""

    name: str
    read: Callable[[Any, datetime], Any]
    required: bool = False


def read_fields(
    fields: Sequence[Field], body: Mapping[str, Any], now: datetime
) -> tuple[JsonObject, list[str]]:
    """Read all fields. Returns the valid values by name, and the texts of all errors."""
    values: JsonObject = {}
    faults: list[str] = []
    for field in fields:
        if field.name in body:
            try:
                values[field.name] = field.read(body[field.name], now)
            except InvalidValue as unfit:
                faults += [f"{field.name} {fault}" for fault in unfit.faults]
    faults += [
        f"{field.name} is a required property"
        for field in fields
        if field.required and field.name not in body
    ]
    if len(body) > len(values):
        names = {field.name for field in fields}
        faults += unexpected([name for name in body if name not in names])
    return values, faults


def unexpected(names: Sequence[str]) -> list[str]:
    """Return the error about fields that the schema does not have, if there are any."""
    if not names:
        return []
    listed = ", ".join(printed(name) for name in names)
    verb = "was" if len(names) == 1 else "were"
    return [f"Additional properties are not allowed ({listed} {verb} unexpected)"]


def printed(value: object) -> str:
    """Print a client's value as Python does, without single quotes, cut to PRINTED_MAX."""
    text = repr(value).replace("'", "")
    return text if len(text) <= PRINTED_MAX else f"{text[:PRINTED_MAX]}…"


def text(value: Any, _: datetime) -> str:
    if type(value) is not str:
        raise InvalidValue(f"{printed(value)} is not of type string")
    return value


def stored_text(value: Any, now: datetime) -> str:
    # Postgres rejects NUL in text, and this text is stored unchanged.
    if "\0" in text(value, now):
        raise InvalidValue(NO_NUL)
    return str(value)


def uuid(value: Any, _: datetime) -> UUID:
    if type(value) is not str or not UUID_FORM.fullmatch(value):
        raise InvalidValue("is not a valid UUID")
    return UUID(value)


def email(value: Any, now: datetime) -> Email:
    try:
        return recipients.email(text(value, now))
    except Unusable as unusable:
        raise InvalidValue(str(unusable)) from None


def phone(value: Any, now: datetime) -> Phone:
    try:
        return recipients.phone(text(value, now))
    except Unusable as unusable:
        raise InvalidValue(str(unusable)) from None


def schedule(value: Any, now: datetime) -> datetime | None:
    if value is None:
        return None
    if type(value) is not str:
        raise InvalidValue(f"{printed(value)} is not of type string, null")
    try:
        at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidValue(NO_TIME) from None
    if at < now:
        raise InvalidValue("datetime cannot be in the past")
    if at > now + SCHEDULE_MAX:
        raise InvalidValue("datetime can only be up to 96 hours in the future")
    return at


def personalisation(value: Any, _: datetime) -> JsonObject:
    if type(value) is not dict:
        raise InvalidValue(f"{printed(value)} is not of type object")
    files = [entry for entry in value.values() if type(entry) is dict]
    faults = [fault for file in files for fault in file_faults(file)]
    if faults:
        raise InvalidValue(*faults)
    return value


def file_faults(file: JsonObject) -> list[str]:
    """Return the errors in the fields of a file among the personalisation."""
    faults = [
        f"{printed(file[name])} is not of type string"
        for name in ("file", "filename")
        if name in file and type(file[name]) is not str
    ]
    method = file.get("sending_method")
    if "sending_method" in file and method not in ("attach", "link"):
        faults.append(f"{printed(method)} is not one of [attach, link]")
    filename = file.get("filename")
    if type(filename) is str and len(filename) not in FILENAME_CHARACTERS:
        short = len(filename) < FILENAME_CHARACTERS.start
        faults.append(f"{printed(filename)} is too {'short' if short else 'long'}")
    required = ["file", "filename", "sending_method"]
    if method != "attach":
        required.remove("filename")
    return faults + [f"{name} is a required property" for name in required if name not in file]


RECIPIENT_FIELD = {Channel.EMAIL: "email_address", Channel.SMS: "phone_number"}
SENDER_FIELD = {Channel.EMAIL: "email_reply_to_id", Channel.SMS: "sms_sender_id"}
EMAIL_FIELDS = (
    Field("reference", stored_text),
    Field("email_address", email, required=True),
    Field("template_id", uuid, required=True),
    Field("personalisation", personalisation),
    Field("scheduled_for", schedule),
    Field("email_reply_to_id", uuid),
)
SMS_FIELDS = (
    Field("reference", stored_text),
    Field("phone_number", phone, required=True),
    Field("template_id", uuid, required=True),
    Field("personalisation", personalisation),
    Field("scheduled_for", schedule),
    Field("sms_sender_id", uuid),
)
