"""The forms of requests that make a job, as JSON and as fields of a form."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import inf
from typing import Any
from uuid import UUID

import msgspec

from ingest.bulk.columns import COLUMNS_MAX, TOO_MANY_COLUMNS, texts
from ingest.bulk.csv_stream import ROW_MAX, CsvStream, UnreadableRow
from ingest.http import fields as schema
from ingest.http.answers import NOT_JSON, Answer, bad_request, validation_error
from ingest.http.fields import PRINTED_MAX, Field, InvalidValue, JsonObject, printed

NAME_MAX = 1_000  # characters
ROWS_MIN = 2  # the header among them
TEXT_BLOCK = 64 * 1024  # characters of CSV that are read at once
MARK = "\ufeff"  # in front of a text that was a file of Excel's
ONE_OF_TWO = bad_request("You should specify either rows or csv")

Raws = list[msgspec.Raw]
# Whoever decodes fifty thousand rows at once does nothing else for 14 ms; to part them takes 2.
_part: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_part_rows: Callable[[bytes], Raws] = msgspec.json.Decoder(Raws).decode


@dataclass(frozen=True, slots=True)
class Form:
    """A request to make a job, whose form is good."""

    template_id: UUID
    name: str
    scheduled_for: datetime | None = None
    sender_id: UUID | None = None
    rows: Raws | None = None
    csv: str | None = None


def decoded(content_type: str, body: bytes) -> JsonObject | Answer:
    """Read a body as a JSON object, whose `rows` stay raw, each on its own."""
    try:
        parted = _part(body) if schema.JSON_TYPE.fullmatch(content_type) else None
        if parted is None:
            return schema.decode_object(content_type, body)
        rows = {"rows": _rows(parted.pop("rows"))} if "rows" in parted else {}
        found = {name: _value(raw) for name, raw in parted.items()}
    except msgspec.ValidationError:
        return schema.decode_object(content_type, body)  # no object: it says what it is instead
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_JSON
    return NOT_JSON if any(map(schema.too_deep, found.values())) else {**found, **rows}


def _value(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(raw)


def _rows(raw: msgspec.Raw) -> Any:
    try:
        return _part_rows(raw)
    except msgspec.ValidationError:
        return _value(raw)  # no array


def read(fields: tuple[Field, ...], given: Mapping[str, Any], now: datetime) -> Form | Answer:
    """Return a request's form, or the answer that names what is wrong with it."""
    try:
        found, faults = schema.read_fields(fields, given, now)
    except RecursionError:
        return NOT_JSON
    if faults:
        return validation_error(*faults)
    return Form(
        found["template_id"],
        found["name"],
        found.get("scheduled_for"),
        found.get("reply_to_id"),
        found.get("rows"),
        found.get("csv"),
    )


def cells(form: Form) -> Iterator[list[str] | Answer]:
    """Yield each row's cells, or the answer to rows that are none; raises UnreadableRow.

    What is huge is not converted: a row of 4.9 million cells stood in everybody's way for 0.9 s.
    """
    if form.rows is None:
        yield from _cells_of_text((form.csv or "").removeprefix(MARK))
        return
    for number, raw in enumerate(form.rows, 1):
        if memoryview(raw)[0] != ord("["):
            yield _texts(number, raw)  # an answer: it comes before any other of the rows
    for number, raw in enumerate(form.rows, 1):
        yield _texts(number, raw)


def _texts(number: int, raw: msgspec.Raw) -> list[str] | Answer:
    try:
        row = _row(number, raw)
        return row if isinstance(row, Answer) else texts(row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_JSON
    except ValueError as error:
        return bad_request(f"Error converting to CSV: {error}")


def _row(number: int, raw: msgspec.Raw) -> Any:
    if size(raw) > ROW_MAX:
        raise UnreadableRow(number, f"a row has more than {ROW_MAX} bytes")
    row = _value(raw)
    if type(row) is not list or len(row) <= COLUMNS_MAX:
        return row
    if number == 1:
        return TOO_MANY_COLUMNS
    raise UnreadableRow(number, f"a row has more than {COLUMNS_MAX} cells")


def size(raw: msgspec.Raw) -> int:
    """Count a value's bytes."""
    return len(memoryview(raw))


def _cells_of_text(text: str) -> Iterator[list[str]]:
    lines = CsvStream()
    for start in range(0, len(text), TEXT_BLOCK):
        lines.write(text[start : start + TEXT_BLOCK])
        yield from lines.rows()
    lines.end()
    yield from lines.rows()


def name(value: Any, now: datetime) -> str:
    given = schema.stored_text(value, now)
    if len(given) > NAME_MAX:
        raise InvalidValue(f"{printed(given)} is too long")
    return given


def sender(value: Any, now: datetime) -> UUID | None:
    return None if value is None else schema.uuid(value, now)


def rows(value: Any, _: datetime, most: float = inf) -> Raws:
    if type(value) is not list:
        raise InvalidValue(f"{printed(value)} is not of type array")
    if not ROWS_MIN <= len(value) <= most:
        raise InvalidValue(f"{shown(value)} is too {'short' if len(value) < ROWS_MIN else 'long'}")
    return value


def csv(value: Any, now: datetime) -> str:
    return schema.text(value, now)


def shown(raws: Raws) -> str:
    # No more of them than can be printed, nor of any.
    first = raws[:PRINTED_MAX]
    values = ["…" if size(raw) > PRINTED_MAX else _value(raw) for raw in first]
    if schema.too_deep(values):
        raise RecursionError
    return printed(values)


BULK_FIELDS = (
    Field("template_id", schema.uuid, required=True),
    Field("name", name, required=True),
    Field("rows", rows),
    Field("csv", csv),
    Field("reference", schema.text),
    Field("scheduled_for", schema.schedule),
    Field("reply_to_id", sender),
)
"""The fields of POST /v2/notifications/bulk."""


def bulk_fields(rows_max: int) -> tuple[Field, ...]:
    """Give them with a bound to the rows, besides the header."""
    bounded = replace(BULK_FIELDS[2], read=partial(rows, most=rows_max + 1))
    return (*BULK_FIELDS[:2], bounded, *BULK_FIELDS[3:])


JOB_FIELDS = (
    Field("template_id", schema.uuid, required=True),
    Field("name", name, required=True),
    Field("scheduled_for", schema.schedule),
    Field("reply_to_id", schema.uuid),
)
"""The fields of POST /v2/jobs, which stand before the file."""
