"""A file's rows, one after another: its header first, then what each one is."""

from collections.abc import Callable, Sequence

from courant.contracts import JobRow
from courant.recipients import cleaned
from ingest.bulk.columns import Sheet
from ingest.bulk.csv_stream import Unreadable
from ingest.http.answers import Answer
from ingest.http.asgi import Refused
from ingest.tally import Tally


class Intake:
    """Reads rows, and tells at the end whether they are accepted."""

    def __init__(self, tally: Tally, sheet: Callable[[Sequence[str]], Sheet | Answer]) -> None:
        self.tally = tally
        self._sheet_for = sheet
        self._sheet: Sheet | None = None

    def take(self, cells: Sequence[str]) -> JobRow | None:
        """Read a row; gives it where it may be sent. Raises Refused for an unfit header.

        Blank rows in front of the header and behind the last row do not count, others do.
        """
        blank = not any(map(cleaned, cells))
        if self._sheet is None:
            self._sheet = None if blank else self._begun(cells)
            return None
        if blank:
            self.tally.blank += 1
            return None
        if self.tally.blank:
            self.tally.take_blank(self._sheet.row(()))
        found = self._sheet.row(cells)
        self.tally.take(found)
        return found if isinstance(found, JobRow) else None

    def end(self) -> None:
        """Say that there are no more rows; raises Refused where there was no header."""
        if self._sheet is None:
            self._begun(())

    def unreadable(self, found: Unreadable) -> Answer:
        """Say in which row the file cannot be read on."""
        return self.tally.unreadable(found, header=self._sheet is None)

    def _begun(self, header: Sequence[str]) -> Sheet:
        sheet = self._sheet_for(header)
        if isinstance(sheet, Answer):
            raise Refused(sheet)
        return sheet
