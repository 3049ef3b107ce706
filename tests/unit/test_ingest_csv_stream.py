"""CSV that arrives in pieces: the rows come out unchanged, wherever the file is split."""

import csv
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.bulk.csv_stream import CELL_MAX, ROW_MAX, CsvStream, UnreadableRow

# Writers print a row of one empty cell as "" or as a blank line, which has no cells.
CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
AWKWARD = st.text(st.sampled_from('",\r\n a é😀\ufeff\u2028\x85'), max_size=8)
ROWS = st.lists(st.lists(CELL | AWKWARD, min_size=1, max_size=4).filter(lambda r: r != [""]))


def read(data: bytes, *cuts: int) -> list[list[str]]:
    lines, found = CsvStream(), list[list[str]]()
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        lines.feed(data[start:stop])
        found.extend(lines.rows())
    lines.finish()
    found.extend(lines.rows())
    return found


def written(rows: list[list[str]], end: str, mark: bool) -> bytes:
    out = io.StringIO(newline="")
    # With LF as the line end the writer does not quote a CR, and the result is not CSV.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    csv.writer(out, lineterminator=end, quoting=quoting).writerows(rows)
    return (b"\xef\xbb\xbf" if mark else b"") + out.getvalue().encode()


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.integers(), st.integers(0, 20))
def test_rows_come_out_unchanged_wherever_the_file_is_split(
    rows: list[list[str]], end: str, seed: int, pieces: int
) -> None:
    # Always with a byte order mark, because a first cell may begin with U+FEFF as well.
    data = written(rows, end, mark=True)
    chance = random.Random(seed)
    cuts = sorted(chance.randint(0, len(data)) for _ in range(pieces))
    assert bare(read(data, *cuts)) == bare(rows)


def bare(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows without the blanks in front of cells, which the reader drops."""
    return [[each.lstrip(" ") for each in row] for row in rows]


def test_a_quote_may_follow_blanks() -> None:
    found = read(b'email address, name\na@example.com,  "Doe, Jane"\n')
    assert found == [["email address", "name"], ["a@example.com", "Doe, Jane"]]


def test_neither_a_byte_order_mark_nor_a_last_line_end_is_needed() -> None:
    assert read(b"a,b\r\n1,2\r\n\r\n3,4") == [["a", "b"], ["1", "2"], [], ["3", "4"]]
    assert read(b"") == []


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode), st.integers(0, 60))
def test_any_bytes_give_the_same_rows_or_error_wherever_they_are_split(
    data: bytes, cut: int
) -> None:
    def told(*cuts: int) -> object:
        try:
            return read(data, *cuts)
        except UnreadableRow as found:
            return found.line, found.reason

    assert told() == told(min(cut, len(data)))


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b'a\n1\n"2\n3\n', 3, "a quote is not closed"),
        (b'a\n"1"2\n', 2, "text follows a closing quote"),
        (b"a,b\r1,2\r", 1, "a line ends in CR alone, or has one inside"),
        (b"a\n1\n\xff\n", 3, "there are bytes that are not UTF-8"),
        (b"a\n1\n\xc3", 3, "there are bytes that are not UTF-8"),
        ("a\n1\n".encode("utf-16"), 1, "there are bytes that are not UTF-8"),
        (b"a\n1\x002\n", 2, "there is a NUL character; the file has to be UTF-8"),
        (b"a\n" + b"x" * (CELL_MAX + 1), 2, f"a cell has more than {CELL_MAX} characters"),
        (b'a\n"' + b"x\n" * CELL_MAX, 2, "has more than 1000 lines, or a quote is not closed"),
        (b'a\n"' + b"\n" * 1_000 + b'"\n', 2, "a row has more than 1000 lines"),
        (b'a\n' + b'"\n",' * 1_000 + b"\n", 2, "a row has more than 1000 lines"),
        (b"a\n" + b"x," * ROW_MAX, 2, f"a row has more than {ROW_MAX} characters"),
        (b"a\n" + b'"%s\n",' % (b"x" * 2_000) * 600, 2, f"row has more than {ROW_MAX} characters"),
    ],
)  # fmt: skip
def test_an_error_names_the_line_on_which_its_row_begins(
    data: bytes, line: int, reason: str
) -> None:
    for cuts in ((), tuple(range(0, len(data), 1 + len(data) // 50))):
        with pytest.raises(UnreadableRow) as caught:
            read(data, *cuts)
        assert caught.value.line == line
        assert reason in caught.value.reason


def test_a_row_may_have_a_thousand_lines() -> None:
    row = ["\n" * 999, "x"]
    assert read(written([row, row], "\n", mark=False), 700, 1_500) == [row, row]


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines = CsvStream()
    for _ in range(ROW_MAX // 65_536):
        lines.feed(b"x" * 65_536)
        assert list(lines.rows()) == []
    lines.feed(b"x")
    with pytest.raises(UnreadableRow):
        list(lines.rows())
