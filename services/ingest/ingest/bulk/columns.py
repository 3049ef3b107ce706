"""What a file's columns mean, and what is wrong with its rows. Nothing here does I/O.

Columns are found by their headers, as placeholders are: case, spaces, `_` and `-` do not count.
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
HEADER_TOLD = 100  # characters of a header that are said back
RECIPIENT: Mapping[Channel, tuple[str, str]] = {
    Channel.EMAIL: ("email address", "adresse courriel"),
    Channel.SMS: ("phone number", "numéro de téléphone"),
}
REFERENCE = "reference"
READ: Mapping[Channel, Callable[[str], Email | Phone]] = {
    Channel.EMAIL: recipients.email,
    Channel.SMS: recipients.phone,
}
MISSING, UNUSABLE = "Missing", "invalid recipient"


@dataclass(frozen=True, slots=True)
class Column:
    """What fills a placeholder: a column, or several of one spelling, which make a list."""

    name: str  # the placeholder's, as the template spells it
    header: str
    places: tuple[int, ...]

    def value(self, cells: Sequence[str]) -> str | list[Scalar]:
        """Give its value in a row; nothing where no cell has any."""
        if len(self.places) == 1:
            return cell(cells, self.places[0])
        return [found for place in self.places if (found := cell(cells, place))]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a row everything stands."""

    recipient: int
    header: str  # the recipient's
    reference: int | None
    columns: tuple[Column, ...]  # in the file's order: of two for one placeholder the last counts


def layout(header: Sequence[str], compiled: CompiledTemplate) -> Layout | Answer:
    """Read a header row."""
    if len(header) > COLUMNS_MAX:
        return TOO_MANY_COLUMNS
    headers = [cleaned(each) for each in header]
    keys = [key_of(each) for each in headers]
    wanted = RECIPIENT[compiled.template.channel]
    ours = [place for place, key in enumerate(keys) if key in {key_of(each) for each in wanted}]
    names = templates.names(compiled.subject, compiled.body)
    missing = {name for name in names if key_of(name) not in keys}
    if not ours:
        missing.add(wanted[0])
    if missing:
        return bad_request(f"Missing column headers: {', '.join(sorted(missing))}")
    if len(ours) > 1:
        told = ", ".join(sorted({headers[place][:HEADER_TOLD] for place in ours}))
        return bad_request(f"Duplicate column headers: {told}")
    name_of = {key_of(name): name for name in names}
    spelt: dict[str, list[int]] = {}
    for place, (each, key) in enumerate(zip(headers, keys, strict=True)):
        if key in name_of:
            spelt.setdefault(each, []).append(place)
    return Layout(
        ours[0],
        headers[ours[0]][:HEADER_TOLD],
        max((place for place, key in enumerate(keys) if key == REFERENCE), default=None),
        tuple(
            Column(name_of[key_of(each)], each[:HEADER_TOLD], tuple(places))
            for each, places in spelt.items()
        ),
    )


def key_of(header: str) -> str:
    # An accent may be a character of its own: é is written in two ways.
    return recipients.key(header if header.isascii() else normalize("NFC", header))


def cell(cells: Sequence[str], place: int) -> str:
    """Give a cell; what a short row lacks is empty."""
    return cleaned(cells[place]) if place < len(cells) else ""


def texts(row: object) -> list[str]:
    """Give a row of JSON as CSV would have it; raises ValueError, which says what is wrong."""
    if type(row) is not list:
        raise ValueError(f"iterable expected, not {type(row).__name__}")
    if any(isinstance(each, list | dict) for each in row):
        raise ValueError("a cell is a list or an object")
    cells = ["" if each is None else each if type(each) is str else str(each) for each in row]
    if any(len(each) > CELL_MAX for each in cells):
        raise ValueError(f"a cell has more than {CELL_MAX} characters")
    return cells


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a row."""

    errors: tuple[str, ...] = ()
    listed: bool = True  # whether this key may send to its recipient
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """Reads a file's rows."""

    layout: Layout
    compiled: CompiledTemplate
    prefix: str | None  # of its SMS
    abroad: bool  # whether numbers of other countries may be sent to
    guests: frozenset[str] | None  # nobody else may be sent to; None where anybody may
    simulated: frozenset[str]
    hashed: Callable[[Email | Phone], bytes]

    def row(self, cells: Sequence[str]) -> JobRow | Faults:
        """Read a row."""
        layout = self.layout
        values: Personalisation = {}
        errors: dict[int, str] = {}  # by column, to be told in the file's order
        for column in layout.columns:
            value = column.value(cells)
            if not value:
                errors[column.places[0]] = f"`{column.header}`: {MISSING}"
            values[column.name] = value
        too_long = False
        if not errors:
            fault, too_long = self._content_fault(values)
            if fault:
                errors[COLUMNS_MAX] = fault  # of no column: told last
        to = cell(cells, layout.recipient)
        try:
            recipient = READ[self.compiled.template.channel](to)
        except Unusable:
            errors[layout.recipient] = f"`{layout.header}`: {UNUSABLE if to else MISSING}"
            # On a list it is not either, and that is told first.
            return Faults(told(errors), listed=self.guests is None, too_long=too_long)
        if self.guests is not None and not recipients.among(recipient, self.guests):
            return Faults(told(errors), listed=False, too_long=too_long)
        if not self.abroad and isinstance(recipient, Phone) and recipient.international:
            errors[layout.recipient] = f"`{layout.header}`: {NOT_ABROAD}"
        reference = None if layout.reference is None else cell(cells, layout.reference)
        if reference and "\0" in reference:
            errors[layout.reference or 0] = f"`{REFERENCE}`: {NO_NUL}"
        if errors or too_long:
            return Faults(told(errors), too_long=too_long)
        return JobRow(
            to=to,
            recipient_hash=self.hashed(recipient),
            personalisation=values,
            reference=reference or None,
            simulated=recipients.among(recipient, self.simulated),
        )

    def _content_fault(self, values: Personalisation) -> tuple[str | None, bool]:
        """Judge what a row would say: a fault, and whether it is too long for an SMS."""
        if fault := oversize(values.values()):
            return fault.removesuffix("."), False
        is_sms = self.compiled.template.channel is Channel.SMS
        if not is_sms and not self.compiled.may_be_empty:
            return None, False
        text = self.compiled.text(templates.normalise(values))
        if not text.strip():
            return BLANK, False
        return None, is_sms and sms.too_long(text, self.prefix)


def told(errors: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(errors[place] for place in sorted(errors))
