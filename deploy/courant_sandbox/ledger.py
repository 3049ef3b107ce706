"""The ledger: a file with a line for every booked message, written before the call is answered.

There is no fsync: a plain write survives a kill -9 of the process, and fault runs need no more. The
contents of the newest messages, which the page shows, go to a second file of bounded size.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from courant_sandbox.messages import Entry, Line, Parts

KEPT_MESSAGES_MAX = 5_000
KEPT_BYTES_MAX = 64 * 1024 * 1024
PARTS_FILE_BYTES_MAX = 16 * 1024 * 1024
BLOCK_BYTES = 256 * 1024

_ENTRY = msgspec.json.Decoder(Entry)
_LINE = msgspec.json.Decoder(Line)
_encode = msgspec.json.Encoder().encode


class Kept(msgspec.Struct, kw_only=True):
    """A message as the page shows it. `receipts` holds the receipts that were taken so far."""

    entry: Entry
    parts: Parts
    receipts: list[str] = []
    size_bytes: int = 0


_KEPT = msgspec.json.Decoder(Kept)


class Ledger:
    """The open ledger of one process. The file has the lines when `append` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size_bytes = _without_torn_line(path)
        self._parts_path = path.with_suffix(".parts.jsonl")
        self._older_parts_path = path.with_suffix(".parts.1.jsonl")
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._kept_bytes = 0
        self._load_parts()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._parts_file = self._open_parts()
        self._parts_bytes = os.fstat(self._parts_file).st_size
        self._lines: int | None = None

    def append(self, messages: Sequence[tuple[Entry, Parts]]) -> list[int]:
        """Book messages; return where the line of each one ends in the file."""
        lines = [_encode(entry) + b"\n" for entry, _ in messages]
        _write(self._file, b"".join(lines))
        ends = []
        for line in lines:
            self.size_bytes += len(line)
            ends.append(self.size_bytes)
        if self._lines is not None:
            self._lines += len(lines)
        self._keep_parts(messages)
        return ends

    def lines(self) -> int:
        """Count the lines.

        Those of an earlier process are counted only on demand, for a fast start.
        """
        if self._lines is None:
            with self.path.open("rb") as file:
                self._lines = sum(
                    block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b"")
                )
        return self._lines

    def blocks(self, since: int) -> Iterator[bytes]:
        """Yield the lines after the first `since` as the API shows them, about 500 at once."""
        with self.path.open("rb") as file:
            for _ in range(since):
                if not file.readline():
                    return
            while lines := file.readlines(BLOCK_BYTES):
                yield b"".join(_encode(_LINE.decode(line)) + b"\n" for line in lines)

    def entries(self, offset: int, count: int) -> list[tuple[Entry, int]]:
        """Return up to `count` entries whose lines begin at `offset`, and where each line ends."""
        found = []
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                found.append((_ENTRY.decode(line), offset))
                if len(found) == count:
                    break
        return found

    def newest(self) -> Iterator[Kept]:
        return reversed(self._kept.values())

    def kept(self, message_id: str) -> Kept | None:
        return self._kept.get(message_id)

    def note_receipt(self, message_id: str, kind: str) -> None:
        """Record for the page that a receipt was taken."""
        kept = self._kept.get(message_id)
        if kept is not None:
            kept.receipts = [*kept.receipts, kind]

    def close(self) -> None:
        os.close(self._file)
        os.close(self._parts_file)

    def _keep_parts(self, messages: Sequence[tuple[Entry, Parts]]) -> None:
        lines = []
        for entry, parts in messages:
            kept = Kept(entry=entry, parts=parts)
            line = _encode(kept) + b"\n"
            kept.size_bytes = len(line)
            self._keep(kept)
            lines.append(line)
        written = b"".join(lines)
        if self._parts_bytes + len(written) > PARTS_FILE_BYTES_MAX:
            os.close(self._parts_file)
            self._parts_path.replace(self._older_parts_path)
            self._parts_file = self._open_parts()
            self._parts_bytes = 0
        _write(self._parts_file, written)
        self._parts_bytes += len(written)

    def _keep(self, kept: Kept) -> None:
        self._kept[kept.entry.message_id] = kept
        self._kept_bytes += kept.size_bytes
        while len(self._kept) > KEPT_MESSAGES_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size_bytes

    def _load_parts(self) -> None:
        _without_torn_line(self._parts_path)
        for path in (self._older_parts_path, self._parts_path):
            if not path.exists():
                continue
            with path.open("rb") as file:
                # More lines than can be kept need not be decoded.
                for line in file.readlines()[-KEPT_MESSAGES_MAX:]:
                    kept = _KEPT.decode(line)
                    kept.size_bytes = len(line)
                    self._keep(kept)

    def _open_parts(self) -> int:
        return os.open(self._parts_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _without_torn_line(path: Path) -> int:
    """Cut off a last line that a killed process did not finish; return the file's size.

    Its call was never answered, and none of its receipts were sent, so it was not booked.
    """
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        while size > 0:
            start = max(0, size - BLOCK_BYTES)
            file.seek(start)
            newline = file.read(size - start).rfind(b"\n")
            if newline >= 0:
                size = start + newline + 1
                break
            size = start
        file.truncate(size)
    return size
