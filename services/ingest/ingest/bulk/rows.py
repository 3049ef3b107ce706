"""Reads a file's rows in order, the header first, and checks all of them together at the end.

The checks on all rows are in the order that the contract fixes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from courant.contracts import JobRow, KeyType
from courant.directory.entries import Service
from courant.recipients import cleaned
from courant.render import sms
from courant.topics import Channel
from ingest.bulk.columns import RowFaults, RowParser
from ingest.bulk.csv_stream import UnreadableRow
from ingest.callers.limits import Remaining
from ingest.http.answers import Answer, bad_request

BAD_ROWS_MAX = 20
"""The answer lists this many bad rows."""
PLURALS = {Channel.EMAIL: "messages", Channel.SMS: "sms messages"}
MIXED = bad_request("Bulk sending to testing and non-testing numbers is not supported")
IN_TRIAL = bad_request(
    "You cannot send to these recipients because your service is in trial mode. You can only send "
    "to members of your team and your safelist."
)
NOT_ON_SAFELIST = bad_request(
    "You cannot send to these recipients because you used a team and safelist API key."
)


@dataclass(slots=True)
class RowCounts:
    """Counts the rows read so far, and keeps the faults of the first bad ones."""

    rows_max: int
    remaining: int  # rows that the service's day and year still allowed at the start
    rows: int = 0  # without blank rows at the end of the file
    blank: int = 0  # blank rows that may turn out to be the end of the file
    simulated: int = 0
    faults: list[str] = field(default_factory=list)  # of the first bad rows
    recipient_not_allowed: bool = False  # whether a recipient is missing on the safelist
    too_long: int | None = None  # the number, from 1, of the first row that is too long for an SMS

    @property
    def acceptable(self) -> bool:
        """Whether the file could be accepted if it ended here."""
        fits = self.rows <= min(self.rows_max, self.remaining)
        return fits and not (self.faults or self.recipient_not_allowed or self.too_long)

    @property
    def too_many(self) -> bool:
        """Whether the file has too many rows."""
        return max(self.rows, self.blank) > self.rows_max

    @property
    def decided(self) -> bool:
        """Whether no further row could change the answer."""
        return self.too_many or len(self.faults) == BAD_ROWS_MAX

    def count(self, row: JobRow | RowFaults) -> None:
        """Count a row."""
        if isinstance(row, JobRow):
            self.simulated += row.simulated
        else:
            self.recipient_not_allowed = self.recipient_not_allowed or not row.recipient_allowed
            if row.too_long and self.too_long is None:
                self.too_long = self.rows + 1
            if row.errors and len(self.faults) < BAD_ROWS_MAX:
                self.faults.append(f"Row {self.rows} - {','.join(row.errors)}.")
        self.rows += 1

    def count_blank(self, row: JobRow | RowFaults) -> None:
        """Count the blank rows, because another row follows. Each of them parses to `row`."""
        for _ in range(min(self.blank, BAD_ROWS_MAX)):
            self.count(row)
        self.rows += max(self.blank - BAD_ROWS_MAX, 0)
        self.blank = 0

    def check(
        self, service: Service, channel: Channel, key_type: KeyType, remaining: Remaining
    ) -> Answer | None:
        """Return the refusal of the file, or None if it is accepted."""
        for allowed, period in ((remaining.year, "annual"), (remaining.day, "daily")):
            if self.rows > allowed:
                return bad_request(
                    f"You only have {allowed} remaining {PLURALS[channel]} before you reach your "
                    f"{period} limit. You've tried to send {self.rows} {PLURALS[channel]}."
                )
        if self.too_many:
            return bad_request(f"Too many rows. Maximum number of rows allowed is {self.rows_max}")
        if self.recipient_not_allowed:
            return IN_TRIAL if service.restricted else NOT_ON_SAFELIST
        if self.too_long:
            return bad_request(
                f"Row {self.too_long} - has a character count greater than {sms.LIMIT} characters. "
                "Some messages may be too long due to custom content."
            )
        if self.faults:
            return bad_request(" ".join(["Some rows have errors.", *self.faults]))
        mixed = 0 < self.simulated < self.rows
        if mixed and channel is Channel.SMS and key_type is not KeyType.TEST:
            return MIXED
        return None


class RowReader:
    """Reads and counts the rows of one file."""

    def __init__(
        self, counts: RowCounts, read_header: Callable[[Sequence[str]], RowParser | Answer]
    ) -> None:
        self.counts = counts
        self._read_header = read_header
        self._parser: RowParser | None = None

    def read(self, cells: Sequence[str]) -> JobRow | Answer | None:
        """Return a row to send, None for any other row, or the refusal of a bad header.

        Blank rows before the header and after the last row do not count. Others do.
        """
        blank = not any(map(cleaned, cells))
        if self._parser is None:
            return None if blank else self._begin(cells)
        if blank:
            self.counts.blank += 1
            return None
        if self.counts.blank:
            self.counts.count_blank(self._parser.parse(()))
        row = self._parser.parse(cells)
        self.counts.count(row)
        return row if isinstance(row, JobRow) else None

    def finish(self) -> Answer | None:
        """Return the refusal of a file without a header. Call it when all rows are read."""
        return self._begin(()) if self._parser is None else None

    def unreadable(self, error: UnreadableRow) -> Answer:
        """Return the 400 that names the row in which the file stops being CSV."""
        number = self.counts.rows + self.counts.blank
        row = "header row" if self._parser is None else f"Row {number}"
        return bad_request(f"Error converting to CSV: {row} (line {error.line}) - {error.reason}")

    def _begin(self, header: Sequence[str]) -> Answer | None:
        parser = self._read_header(header)
        if isinstance(parser, Answer):
            return parser
        self._parser = parser
        return None
