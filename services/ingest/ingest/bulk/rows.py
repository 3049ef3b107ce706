"""A file's rows, one after another: its header first, then what each one is, and what they came to.

The checks on all rows together stand here in the API's order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from courant.contracts import JobRow, KeyType
from courant.directory.entries import Service
from courant.recipients import cleaned
from courant.render import sms
from courant.topics import Channel
from ingest.bulk.columns import Faults, Sheet
from ingest.bulk.csv_stream import UnreadableRow
from ingest.callers.limits import Remaining
from ingest.http.answers import Answer, bad_request

BAD_ROWS_TOLD = 20
CALLED = {Channel.EMAIL: "messages", Channel.SMS: "sms messages"}
MIXED = bad_request("Bulk sending to testing and non-testing numbers is not supported")
IN_TRIAL = bad_request(
    "You cannot send to these recipients because your service is in trial mode. You can only send "
    "to members of your team and your safelist."
)
NOT_LISTED = bad_request(
    "You cannot send to these recipients because you used a team and safelist API key."
)


@dataclass(slots=True)
class RowCounts:
    """The rows that were read so far."""

    rows_max: int
    room: int  # for rows, in the service's day and year as they began
    rows: int = 0  # those that count: blank ones at the end do not
    blank: int = 0  # rows, of which nobody knows yet whether they are the file's last
    simulated: int = 0
    faults: list[str] = field(default_factory=list)  # of the first bad rows
    unlisted: bool = False
    too_long: int | None = None  # the first such row, counted from 1

    @property
    def faultless(self) -> bool:
        """Tell whether all that came so far may be accepted."""
        fits = self.rows <= min(self.rows_max, self.room)
        return fits and not (self.faults or self.unlisted or self.too_long)

    @property
    def over(self) -> bool:
        """Tell whether there are too many rows."""
        return max(self.rows, self.blank) > self.rows_max

    @property
    def decided(self) -> bool:
        """Tell whether no further row could change the answer."""
        return self.over or len(self.faults) == BAD_ROWS_TOLD

    def take(self, found: JobRow | Faults) -> None:
        """Count a row that was read."""
        if isinstance(found, JobRow):
            self.simulated += found.simulated
        else:
            self.unlisted = self.unlisted or not found.listed
            if found.too_long and self.too_long is None:
                self.too_long = self.rows + 1
            if found.errors and len(self.faults) < BAD_ROWS_TOLD:
                self.faults.append(f"Row {self.rows} - {','.join(found.errors)}.")
        self.rows += 1

    def take_blank(self, found: JobRow | Faults) -> None:
        """Count the blank rows, which are not the file's last; each is found to be the same."""
        for _ in range(min(self.blank, BAD_ROWS_TOLD)):
            self.take(found)
        self.rows += max(self.blank - BAD_ROWS_TOLD, 0)
        self.blank = 0

    def refusal(
        self, service: Service, channel: Channel, key_type: KeyType, left: Remaining
    ) -> Answer | None:
        """Say why the file is not accepted, if it is not."""
        for room, period in ((left.year, "annual"), (left.day, "daily")):
            if self.rows > room:
                return bad_request(
                    f"You only have {room} remaining {CALLED[channel]} before you reach your "
                    f"{period} limit. You've tried to send {self.rows} {CALLED[channel]}."
                )
        if self.over:
            return bad_request(f"Too many rows. Maximum number of rows allowed is {self.rows_max}")
        if self.unlisted:
            return IN_TRIAL if service.restricted else NOT_LISTED
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

    def unreadable(self, found: UnreadableRow, *, header: bool) -> Answer:
        """Say in which row the file cannot be read on."""
        row = "header row" if header else f"Row {self.rows + self.blank}"
        return bad_request(f"Error converting to CSV: {row} (line {found.line}) - {found.reason}")


class RowReader:
    """Reads rows, and tells at the end whether they are accepted."""

    def __init__(self, tally: RowCounts, sheet: Callable[[Sequence[str]], Sheet | Answer]) -> None:
        self.tally = tally
        self._sheet_for = sheet
        self._sheet: Sheet | None = None

    def take(self, cells: Sequence[str]) -> JobRow | Answer | None:
        """Return a row that may be sent, None for any other, or the answer to an unfit header.

        Blank rows in front of the header and behind the last row do not count, others do.
        """
        blank = not any(map(cleaned, cells))
        if self._sheet is None:
            return None if blank else self._begin(cells)
        if blank:
            self.tally.blank += 1
            return None
        if self.tally.blank:
            self.tally.take_blank(self._sheet.row(()))
        found = self._sheet.row(cells)
        self.tally.take(found)
        return found if isinstance(found, JobRow) else None

    def end(self) -> Answer | None:
        """Return the answer to a file without a header, once there are no more rows."""
        return self._begin(()) if self._sheet is None else None

    def unreadable(self, found: UnreadableRow) -> Answer:
        """Say in which row the file cannot be read on."""
        return self.tally.unreadable(found, header=self._sheet is None)

    def _begin(self, header: Sequence[str]) -> Answer | None:
        sheet = self._sheet_for(header)
        if isinstance(sheet, Answer):
            return sheet
        self._sheet = sheet
        return None
