"""Reads the requests that make a job: JSON bodies, and the fields of an upload."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import inf
from typing import Any
from uuid import UUID

import msgspec

from ingest.bulk.columns import COLUMNS_MAX, TOO_MANY_COLUMNS, csv_cells
from ingest.bulk.csv_stream import ROW_MAX, CsvStream, UnreadableRow
from ingest.http import fields
from ingest.http.answers import NOT_JSON, Answer, bad_request, validation_error
from ingest.http.fields import PRINTED_MAX, Field, InvalidValue, JsonObject, printed

NAME_MAX = 1_000  # characters
ROWS_MIN = 2  # the header and one row
BLOCK_MAX = 64 * 1024  # characters of CSV text that are read at once
BYTE_ORDER_MARK = "\ufeff"  # Excel writes it in front of a CSV file
ONE_OF_TWO = bad_request("You should specify either rows or csv")

RawRows = list[msgspec.Raw]
# Decoding fifty thousand rows at once blocks the event loop for 14 ms. Splitting them takes 2 ms.
_split_object: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_split_array: Callable[[bytes], RawRows] = msgspec.json.Decoder(RawRows).decode


@dataclass(frozen=True, slots=True)
class JobForm:
    """A request to make a job, with valid fields."""

    template_id: UUID
    name: str
    scheduled_for: datetime | None = None
    sender_id: UUID | None = None
    rows: RawRows | None = None
    csv: str | None = None


def decode_object(content_type: str, body: bytes) -> JsonObject | Answer:
    """Return the body's JSON object, or the answer that rejects it.

    Each element of `rows` is left undecoded.
    """
    try:
        raw_values = _split_object(body) if fields.JSON_TYPE.fullmatch(content_type) else None
        if raw_values is None:
            return fields.decode_object(content_type, body)
        rows = {"rows": _decode_rows(raw_values.pop("rows"))} if "rows" in raw_values else {}
        values = {name: _decode(raw) for name, raw in raw_values.items()}
    except msgspec.ValidationError:
        return fields.decode_object(content_type, body)  # no object: its answer says what it is
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_JSON
    return NOT_JSON if any(map(fields.too_deep, values.values())) else {**values, **rows}


def _decode(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(raw)


def _decode_rows(raw: msgspec.Raw) -> Any:
    try:
        return _split_array(raw)
    except msgspec.ValidationError:
        return _decode(raw)  # not an array


def read_form(
    form_fields: tuple[Field, ...], body: Mapping[str, Any], now: datetime
) -> JobForm | Answer:
    """Return a request's form, or the answer that lists all its errors."""
    try:
        values, faults = fields.read_fields(form_fields, body, now)
    except RecursionError:
        return NOT_JSON
    if faults:
        return validation_error(*faults)
    return JobForm(
        values["template_id"],
        values["name"],
        values.get("scheduled_for"),
        values.get("reply_to_id"),
        values.get("rows"),
        values.get("csv"),
    )


def row_cells(form: JobForm) -> Iterator[list[str] | Answer]:
    """Yield the cells of each row, or the answer that rejects the rows. Raises UnreadableRow.

    A huge row is not decoded: one of 4.9 million cells blocked the event loop for 0.9 s.
    """
    if form.rows is None:
        yield from _read_csv((form.csv or "").removeprefix(BYTE_ORDER_MARK))
        return
    for number, raw in enumerate(form.rows, 1):
        if memoryview(raw)[0] != ord("["):
            # This row is not an array. Its error comes before the errors of all other rows.
            yield _read_row(number, raw)
    for number, raw in enumerate(form.rows, 1):
        yield _read_row(number, raw)


def _read_row(number: int, raw: msgspec.Raw) -> list[str] | Answer:
    try:
        row = _decode_row(number, raw)
        return row if isinstance(row, Answer) else csv_cells(row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_JSON
    except ValueError as error:
        return bad_request(f"Error converting to CSV: {error}")


def _decode_row(number: int, raw: msgspec.Raw) -> Any:
    if size_bytes(raw) > ROW_MAX:
        raise UnreadableRow(number, f"a row has more than {ROW_MAX} bytes")
    row = _decode(raw)
    if type(row) is not list or len(row) <= COLUMNS_MAX:
        return row
    if number == 1:
        return TOO_MANY_COLUMNS
    raise UnreadableRow(number, f"a row has more than {COLUMNS_MAX} cells")


def size_bytes(raw: msgspec.Raw) -> int:
    """Return the size of a value as JSON."""
    return len(memoryview(raw))


def _read_csv(text: str) -> Iterator[list[str]]:
    stream = CsvStream()
    for start in range(0, len(text), BLOCK_MAX):
        stream.feed_text(text[start : start + BLOCK_MAX])
        yield from stream.rows()
    stream.finish()
    yield from stream.rows()


def name(value: Any, now: datetime) -> str:
    text = fields.stored_text(value, now)
    if len(text) > NAME_MAX:
        raise InvalidValue(f"{printed(text)} is too long")
    return text


def sender(value: Any, now: datetime) -> UUID | None:
    return None if value is None else fields.uuid(value, now)


def rows(value: Any, _: datetime, rows_max: float = inf) -> RawRows:
    if type(value) is not list:
        raise InvalidValue(f"{printed(value)} is not of type array")
    if not ROWS_MIN <= len(value) <= rows_max:
        size = "short" if len(value) < ROWS_MIN else "long"
        raise InvalidValue(f"{printed_rows(value)} is too {size}")
    return value


def csv(value: Any, now: datetime) -> str:
    return fields.text(value, now)


def printed_rows(raws: RawRows) -> str:
    # An error text repeats PRINTED_MAX characters: more or longer rows need not be decoded.
    first = raws[:PRINTED_MAX]
    values = ["…" if size_bytes(raw) > PRINTED_MAX else _decode(raw) for raw in first]
    if fields.too_deep(values):
        raise RecursionError
    return printed(values)


BULK_FIELDS = (
    Field("template_id", fields.uuid, required=True),
    Field("name", name, required=True),
    Field("rows", rows),
    Field("csv", csv),
    Field("reference", fields.text),
    Field("scheduled_for", fields.schedule),
    Field("reply_to_id", sender),
)
"""The fields of POST /v2/notifications/bulk."""


def bulk_fields(rows_max: int) -> tuple[Field, ...]:
    """Return BULK_FIELDS with an upper bound for `rows`, which also has the header."""
    bounded = replace(BULK_FIELDS[2], read=partial(rows, rows_max=rows_max + 1))
    return (*BULK_FIELDS[:2], bounded, *BULK_FIELDS[3:])


JOB_FIELDS = (
    Field("template_id", fields.uuid, required=True),
    Field("name", name, required=True),
    Field("scheduled_for", fields.schedule),
    Field("reply_to_id", fields.uuid),
)
"""The fields of POST /v2/jobs, which come before the file."""
