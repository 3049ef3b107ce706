"""Finds a file's columns by their headers, and checks each of its rows. Nothing here does I/O.

Headers match placeholders as the API matches names: case, spaces, `_` and `-` do not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from courant import recipients
from courant.contracts import JobRow, Scalar
from courant.recipients import Email, Phone, Unusable, cleaned
from courant.render import sms, templates
from courant.topics import Channel
from ingest.accept.content import CompiledTemplate, Personalisation
from ingest.accept.rules import BLANK, NOT_ABROAD, oversize
from ingest.bulk.csv_stream import CELL_MAX
from ingest.http.answers import Answer, bad_request
from ingest.http.fields import NO_NUL

COLUMNS_MAX = 1_000
TOO_MANY_COLUMNS = bad_request(
    f"Too many columns. Maximum number of columns allowed is {COLUMNS_MAX}"
)
HEADER_PRINTED_MAX = 100  # characters of a header that an error text repeats
RECIPIENT_HEADERS: Mapping[Channel, tuple[str, str]] = {
    Channel.EMAIL: ("email address", "adresse courriel"),
    Channel.SMS: ("phone number", "numéro de téléphone"),
}
REFERENCE = "reference"
PARSE_RECIPIENT: Mapping[Channel, Callable[[str], Email | Phone]] = {
    Channel.EMAIL: recipients.email,
    Channel.SMS: recipients.phone,
}
MISSING, INVALID = "Missing", "invalid recipient"


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one placeholder: one column, or a list of several with the same header."""

    name: str  # of the placeholder, as the template spells it
    header: str
    indexes: tuple[int, ...]

    def value(self, cells: Sequence[str]) -> str | list[Scalar]:
        """Return the value in a row. It is empty if no cell has any."""
        if len(self.indexes) == 1:
            return cell(cells, self.indexes[0])
        return [value for index in self.indexes if (value := cell(cells, index))]


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file that matter, by their index in a row."""

    recipient: int
    header: str  # of the recipient's column
    reference: int | None
    # In the file's order. If two columns have one placeholder's name, the last one counts.
    columns: tuple[Column, ...]


def read_layout(header: Sequence[str], compiled: CompiledTemplate) -> Layout | Answer:
    """Return the layout that a header row describes, or the answer that rejects the header."""
    if len(header) > COLUMNS_MAX:
        return TOO_MANY_COLUMNS
    headers = [cleaned(text) for text in header]
    keys = [header_key(text) for text in headers]
    recipient_headers = RECIPIENT_HEADERS[compiled.template.channel]
    recipient_keys = {header_key(text) for text in recipient_headers}
    recipient_indexes = [index for index, key in enumerate(keys) if key in recipient_keys]
    names = templates.names(compiled.subject, compiled.body)
    missing = {name for name in names if header_key(name) not in keys}
    if not recipient_indexes:
        missing.add(recipient_headers[0])
    if missing:
        return bad_request(f"Missing column headers: {', '.join(sorted(missing))}")
    if len(recipient_indexes) > 1:
        printed = {headers[index][:HEADER_PRINTED_MAX] for index in recipient_indexes}
        return bad_request(f"Duplicate column headers: {', '.join(sorted(printed))}")
    name_of = {header_key(name): name for name in names}
    indexes_of: dict[str, list[int]] = {}  # by header, of the placeholders alone
    for index, (text, key) in enumerate(zip(headers, keys, strict=True)):
        if key in name_of:
            indexes_of.setdefault(text, []).append(index)
    return Layout(
        recipient_indexes[0],
        headers[recipient_indexes[0]][:HEADER_PRINTED_MAX],
        max((index for index, key in enumerate(keys) if key == REFERENCE), default=None),
        tuple(
            Column(name_of[header_key(text)], text[:HEADER_PRINTED_MAX], tuple(indexes))
            for text, indexes in indexes_of.items()
        ),
    )


def header_key(header: str) -> str:
    # Unicode has two ways to write é: as one character, or as an e with an accent behind it.
    return recipients.key(header if header.isascii() else normalize("NFC", header))


def cell(cells: Sequence[str], index: int) -> str:
    """Return a cell. A short row has empty cells at its end."""
    return cleaned(cells[index]) if index < len(cells) else ""


def csv_cells(row: object) -> list[str]:
    """Return the cells of a JSON row as CSV would have them.

    Raises ValueError with the error text for a row that CSV could not hold.
    """
    if type(row) is not list:
        raise ValueError(f"iterable expected, not {type(row).__name__}")
    if any(isinstance(value, list | dict) for value in row):
        raise ValueError("a cell is a list or an object")
    cells = ["" if value is None else value if type(value) is str else str(value) for value in row]
    if any(len(text) > CELL_MAX for text in cells):
        raise ValueError(f"a cell has more than {CELL_MAX} characters")
    return cells


@dataclass(frozen=True, slots=True)
class RowFaults:
    """The reasons why a row cannot be sent."""

    errors: tuple[str, ...] = ()
    recipient_allowed: bool = True  # whether the safelist allows its recipient
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class RowParser:
    """Parses and checks the rows of a file, once its header is read."""

    layout: Layout
    compiled: CompiledTemplate
    sms_prefix: str | None
    international_allowed: bool
    safelist: frozenset[str] | None  # the only recipients allowed, or None if all are
    simulated: frozenset[str]
    hash_recipient: Callable[[Email | Phone], bytes]

    def parse(self, cells: Sequence[str]) -> JobRow | RowFaults:
        """Return a row to send, or its faults."""
        layout = self.layout
        values: Personalisation = {}
        errors: dict[int, str] = {}  # by column, because they are listed in the file's order
        for column in layout.columns:
            value = column.value(cells)
            if not value:
                errors[column.indexes[0]] = f"`{column.header}`: {MISSING}"
            values[column.name] = value
        too_long = False
        if not errors:
            fault, too_long = self._check_content(values)
            if fault:
                errors[COLUMNS_MAX] = fault  # belongs to no column, so it is listed last
        to = cell(cells, layout.recipient)
        try:
            recipient = PARSE_RECIPIENT[self.compiled.template.channel](to)
        except Unusable:
            errors[layout.recipient] = f"`{layout.header}`: {INVALID if to else MISSING}"
            # No safelist has an unusable recipient, and the safelist is reported first.
            allowed = self.safelist is None
            return RowFaults(in_column_order(errors), allowed, too_long=too_long)
        if self.safelist is not None and not recipients.among(recipient, self.safelist):
            return RowFaults(in_column_order(errors), recipient_allowed=False, too_long=too_long)
        international = isinstance(recipient, Phone) and recipient.international
        if international and not self.international_allowed:
            errors[layout.recipient] = f"`{layout.header}`: {NOT_ABROAD}"
        reference = None if layout.reference is None else cell(cells, layout.reference)
        if reference and "\0" in reference:
            errors[layout.reference or 0] = f"`{REFERENCE}`: {NO_NUL}"
        if errors or too_long:
            return RowFaults(in_column_order(errors), too_long=too_long)
        return JobRow(
            to=to,
            recipient_hash=self.hash_recipient(recipient),
            personalisation=values,
            reference=reference or None,
            simulated=recipients.among(recipient, self.simulated),
        )

    def _check_content(self, values: Personalisation) -> tuple[str | None, bool]:
        """Return the fault of a row's content, if any, and whether it is too long for an SMS."""
        if fault := oversize(values.values()):
            return fault.removesuffix("."), False
        is_sms = self.compiled.template.channel is Channel.SMS
        if not is_sms and not self.compiled.may_be_empty:
            return None, False
        text = self.compiled.text(templates.normalise(values))
        if not text.strip():
            return BLANK, False
        return None, is_sms and sms.too_long(text, self.sms_prefix)


def in_column_order(errors: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(errors[index] for index in sorted(errors))
