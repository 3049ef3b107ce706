"""CSV as it comes: bytes or text in, rows out as soon as they are whole.

Python's csv module reads it, strictly: a quote that is not closed is said, where it would else
swallow the rest of the file. It asks for one line after another and cannot wait for one; so where
the lines run out, the row that is not whole is given up, and read again once more has come.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator

CELL_MAX = csv.field_size_limit()  # characters; what the module takes if nobody says otherwise
ROW_MAX = 1024 * 1024  # characters of a row, or of a line whose end has not come
LINES_MAX = 1_000
"""Lines of a row. Those that have come are read again with each block: 0.9 MB of line ends inside
quotes stood in everybody's way for 0.6 s in all.
"""
REASONS = {
    "unexpected end of data": "a quote is not closed",
    "field larger": f"a cell has more than {CELL_MAX} characters, or a quote is not closed",
    "expected after": "text follows a closing quote",
    "new-line character": "a line ends in CR alone, or has one inside",
}


class UnreadableRow(Exception):
    """What came is no CSV. Tells why, and on which line of the file its row begins, from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class More(Exception):
    """There is no further whole line yet."""


class CsvStream:
    """A file that comes in pieces, of any size, split anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._rest: list[str] = []  # pieces of a line whose end has not come
        self._rest_characters = 0
        self._waiting: deque[str] = deque()
        self._taken: list[str] = []  # lines of the row that is being read
        self._taken_characters = 0
        self._ended = False
        self._fault: str | None = None  # of what follows the lines that wait
        self._line = 1  # on which the next row begins
        self._reader = csv.reader(self, strict=True, skipinitialspace=True)

    def feed(self, data: bytes) -> None:
        """Take the file's next bytes, which are UTF-8, with or without a mark in front."""
        self._decode(data, last=False)

    def write(self, text: str, fault: str | None = None) -> None:
        """Take the file's next text, and what is wrong with what follows it."""
        if self._fault:
            return
        self._fault = fault
        if (nul := text.find("\0")) >= 0:
            text, self._fault = text[:nul], "there is a NUL character; the file has to be UTF-8"
        # Only LF ends a line: others inside a cell are its own.
        *whole, rest = io.StringIO(text, newline="\n").readlines() or [""]
        if rest.endswith("\n"):
            whole, rest = [*whole, rest], ""
        if whole and self._rest:
            whole[0] = "".join([*self._rest, whole[0]])
            self._rest, self._rest_characters = [], 0
        self._waiting.extend(whole)
        if rest:
            self._rest.append(rest)
            self._rest_characters += len(rest)

    def end(self) -> None:
        """Say that nothing more will come."""
        self._decode(b"", last=True)
        self._ended = not self._fault
        if self._ended and self._rest:
            self._waiting.append("".join(self._rest))

    def rows(self) -> Iterator[list[str]]:
        """Give the rows that are whole by now; raises Unreadable."""
        while True:
            try:
                row = next(self._reader)
            except More:
                self._waiting.extendleft(reversed(self._taken))
                self._taken.clear()
                self._taken_characters = 0
                return
            except StopIteration:
                return
            except csv.Error as error:
                told = str(error)
                known = (text for part, text in REASONS.items() if part in told)
                raise UnreadableRow(self._line, next(known, told)) from None
            self._line += len(self._taken)
            self._taken.clear()
            self._taken_characters = 0
            yield row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Give the csv module its next line."""
        if not self._waiting:
            if self._fault:
                raise UnreadableRow(self._line, self._fault)
            if self._ended:
                raise StopIteration
            if self._taken_characters + self._rest_characters > ROW_MAX:
                raise UnreadableRow(self._line, f"a row has more than {ROW_MAX} characters")
            raise More
        line = self._waiting.popleft()
        self._taken.append(line)
        self._taken_characters += len(line)
        if self._taken_characters > ROW_MAX:
            raise UnreadableRow(self._line, f"a row has more than {ROW_MAX} characters")
        if len(self._taken) > LINES_MAX:
            told = f"a row has more than {LINES_MAX} lines, or a quote is not closed"
            raise UnreadableRow(self._line, told)
        return line

    def _decode(self, data: bytes, *, last: bool) -> None:
        if self._fault:
            return
        try:
            text = self._decoder.decode(data, last)
        except UnicodeDecodeError as error:
            # What stands before it is read all the same, to tell in which row it is.
            self.write(error.object[: error.start].decode(), "there are bytes that are not UTF-8")
        else:
            self.write(text)
