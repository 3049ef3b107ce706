"""Reads multipart/form-data as a stream: some fields, then one file that is never held whole."""

import asyncio
import logging
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ingest.http.answers import (
    BODY_INCOMPLETE,
    BODY_TOO_SLOW,
    REQUEST_TOO_LARGE,
    bad_request,
    error_answer,
    validation_error,
)
from ingest.http.asgi import AnsweredEarly
from ingest.http.fields import unexpected
from ingest.http.slow_clients import MinimumSpeed

FILE = "file"
FIELD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 1024 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
"""How many bytes of the file one block has. It has more if one part of the body had more."""
NOT_MULTIPART = error_answer(
    415, "BadRequestError", "Content-Type has to be multipart/form-data with a boundary"
)
MALFORMED = bad_request("The request's body is not multipart/form-data as its Content-Type says")
ONE_FILE = bad_request("Only one file can be sent")
NO_FILE = error_answer(400, "ValidationError", f"{FILE} is a required property")

# A client's malformed form is answered with an error. It does not belong in our log as well.
logging.getLogger("python_multipart.multipart").setLevel(logging.ERROR)


class Body(Protocol):
    """A request's body, read part by part."""

    fully_read: bool

    async def next_part(self) -> bytes:
        """Return the next part. Raises AnsweredEarly if it is late or the connection breaks."""


class MultipartUpload:
    """A form that is read while it arrives. Creating it and reading it raise AnsweredEarly.

    The form may have the fields `names`, each at most once, and then one file.
    """

    def __init__(self, content_type: str, body: Body, names: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise AnsweredEarly(NOT_MULTIPART)
        self.fields: dict[str, str] = {}
        self._names = names
        self.filename: str | None = None
        self._body = body
        self._name = ""  # of the current part
        self._filename: bytes | None = None
        self._header = bytearray()
        self._value = bytearray()  # of the current header or field
        self._in_file = False
        self._file_seen = False
        self._complete = False
        self._client_gone = False  # whether the client disconnected or was too slow
        self._speed = MinimumSpeed()
        self._data: list[bytes] = []
        self._size = 0  # bytes of the body so far
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_end,
                    "on_end": self._on_complete,
                },
            )
        except FormParserError:
            raise AnsweredEarly(NOT_MULTIPART) from None

    async def read_fields(self) -> None:
        """Read all fields, up to the start of the file."""
        while not self._file_seen:
            if self._body.fully_read or self._complete:
                raise AnsweredEarly(NO_FILE if self._complete else BODY_INCOMPLETE)
            await self._advance()

    async def next_block(self) -> bytes:
        """Return the next bytes of the file, or b"" at its end."""
        gathered = sum(map(len, self._data))
        while gathered < BLOCK_BYTES and not self._body.fully_read:
            before = len(self._data)
            await self._advance()
            gathered += sum(map(len, self._data[before:]))
        if self._body.fully_read and not self._complete:
            raise AnsweredEarly(BODY_INCOMPLETE)
        data, self._data = self._data, []
        return b"".join(data)

    async def discard(self, seconds: float) -> None:
        """Read and drop the rest: a client that is still sending does not read its answer."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            while not (self._body.fully_read or self._client_gone or loop.time() > until):
                await self._body.next_part()
        except AnsweredEarly:
            return

    async def _advance(self) -> None:
        now = asyncio.get_running_loop().time
        self._client_gone, began = True, now()
        part = await self._body.next_part()
        if self._speed.too_slow(now() - began, len(part)):
            raise AnsweredEarly(BODY_TOO_SLOW)
        self._client_gone = False
        self._size += len(part)
        if self._size > BODY_BYTES_MAX:
            raise AnsweredEarly(REQUEST_TOO_LARGE)
        try:
            self._parser.write(part)
        except FormParserError:
            raise AnsweredEarly(MALFORMED) from None

    def _begin(self) -> None:
        self._name, self._filename, self._in_file = "", None, False
        self._header.clear()
        self._value.clear()

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode(errors="replace")
            self._filename = options.get(b"filename")
        self._header.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        if self._name == FILE:
            if self._file_seen:
                raise AnsweredEarly(ONE_FILE)
            self._in_file = self._file_seen = True
            if self._filename:
                self.filename = self._filename.decode(errors="replace")
        elif self._file_seen:
            raise AnsweredEarly(bad_request(f"{self._name} has to come before the file"))
        elif self._name not in self._names:
            raise AnsweredEarly(validation_error(*unexpected([self._name])))
        elif self._name in self.fields:
            raise AnsweredEarly(bad_request(f"{self._name} is there more than once"))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._data.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES_MAX:
            raise AnsweredEarly(REQUEST_TOO_LARGE)

    def _on_end(self) -> None:
        if self._in_file:
            self._in_file = False
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise AnsweredEarly(bad_request(f"{self._name} is not UTF-8")) from None

    def _on_complete(self) -> None:
        self._complete = True
