"""Reads CSV as it arrives: bytes or text go in, and rows come out as soon as they are complete.

Python's csv module parses it, in strict mode: an unclosed quote is an error, where it would
otherwise swallow the rest of the file. The module asks for one line after another and cannot wait.
So when the lines run out inside a row, the row is given up and parsed again with the next lines.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator

CELL_MAX = csv.field_size_limit()  # characters; the csv module's default
ROW_MAX = 1024 * 1024  # characters of a row, or of a line that has not ended yet
LINES_MAX = 1_000
"""Lines of a row. An incomplete row is parsed again with each block, however many lines it has.

Without this bound, 0.9 MB of line ends inside quotes blocked the event loop for 0.6 s in all.
"""
REASONS = {
    "unexpected end of data": "a quote is not closed",
    "field larger": f"a cell has more than {CELL_MAX} characters, or a quote is not closed",
    "expected after": "text follows a closing quote",
    "new-line character": "a line ends in CR alone, or has one inside",
}


class UnreadableRow(Exception):
    """The file stops being CSV. Has the reason, and the line from 1 on which the row begins."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class NoLineYet(Exception):
    """The next line has not arrived completely."""


class CsvStream:
    """A file that arrives in pieces of any size, split anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._rest: list[str] = []  # pieces of the line that has not ended yet
        self._rest_characters = 0
        self._waiting: deque[str] = deque()  # complete lines that are not parsed yet
        self._row_lines: list[str] = []  # lines of the row that is being parsed
        self._row_characters = 0
        self._ended = False
        self._fault: str | None = None  # why the file cannot be read beyond the waiting lines
        self._line = 1  # the line on which the next row begins
        self._reader = csv.reader(self, strict=True, skipinitialspace=True)

    def feed(self, data: bytes) -> None:
        """Add the file's next bytes. They are UTF-8, with or without a byte order mark in front."""
        self._decode(data, last=False)

    def feed_text(self, text: str, fault: str | None = None) -> None:
        """Add the file's next text. `fault`: why nothing after this text can be read."""
        if self._fault:
            return
        self._fault = fault
        if (nul := text.find("\0")) >= 0:
            text, self._fault = text[:nul], "there is a NUL character; the file has to be UTF-8"
        # Only LF ends a line here. Other line ends inside a cell belong to the cell.
        *lines, rest = io.StringIO(text, newline="\n").readlines() or [""]
        if rest.endswith("\n"):
            lines, rest = [*lines, rest], ""
        if lines and self._rest:
            lines[0] = "".join([*self._rest, lines[0]])
            self._rest, self._rest_characters = [], 0
        self._waiting.extend(lines)
        if rest:
            self._rest.append(rest)
            self._rest_characters += len(rest)

    def finish(self) -> None:
        """Mark the end of the file."""
        self._decode(b"", last=True)
        self._ended = not self._fault
        if self._ended and self._rest:
            self._waiting.append("".join(self._rest))

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows that are complete by now. Raises UnreadableRow."""
        while True:
            try:
                row = next(self._reader)
            except NoLineYet:
                self._waiting.extendleft(reversed(self._row_lines))
                self._row_lines.clear()
                self._row_characters = 0
                return
            except StopIteration:
                return
            except csv.Error as error:
                message = str(error)
                reasons = (reason for part, reason in REASONS.items() if part in message)
                raise UnreadableRow(self._line, next(reasons, message)) from None
            self._line += len(self._row_lines)
            self._row_lines.clear()
            self._row_characters = 0
            yield row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line for the csv module."""
        if not self._waiting:
            if self._fault:
                raise UnreadableRow(self._line, self._fault)
            if self._ended:
                raise StopIteration
            if self._row_characters + self._rest_characters > ROW_MAX:
                raise UnreadableRow(self._line, f"a row has more than {ROW_MAX} characters")
            raise NoLineYet
        line = self._waiting.popleft()
        self._row_lines.append(line)
        self._row_characters += len(line)
        if self._row_characters > ROW_MAX:
            raise UnreadableRow(self._line, f"a row has more than {ROW_MAX} characters")
        if len(self._row_lines) > LINES_MAX:
            reason = f"a row has more than {LINES_MAX} lines, or a quote is not closed"
            raise UnreadableRow(self._line, reason)
        return line

    def _decode(self, data: bytes, *, last: bool) -> None:
        if self._fault:
            return
        try:
            text = self._decoder.decode(data, last)
        except UnicodeDecodeError as error:
            # The text before the bad bytes is still parsed, so that the error can name their row.
            self.feed_text(
                error.object[: error.start].decode(), "there are bytes that are not UTF-8"
            )
        else:
            self.feed_text(text)
