"""How a record is encoded, read and refused: what all contracts have in common.

msgspec decodes one such record in 1.5 µs, pydantic in 7 µs (decision 0003).
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, ClassVar, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")
Number: TypeAlias = Annotated[int, Meta(ge=1, lt=2**31)]
Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
Text: TypeAlias = Annotated[str, Meta(max_length=1000)]


class Malformed(ValueError):
    """The bytes break their contract. Names the field and the fault, never the value."""


class Nested(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a record."""


class Contract(Nested, frozen=True, kw_only=True):
    """A whole record."""

    reads: ClassVar[int] = 1  # version of this reader
    readable_from: int = 1  # version of the oldest reader that can read the record

    def __post_init__(self) -> None:
        if self.readable_from > self.reads:
            raise ValueError("newer than this reader")

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Return the record that these bytes encode; raises Malformed."""
        return read(decoder(cls), value)

    def encode(self) -> bytes:
        """Return the record's bytes."""
        return ENCODE(self)


ENCODE = msgspec.json.Encoder().encode
_decoders: dict[object, Callable[[bytes], object]] = {}
# msgspec quotes the value in these two messages only. The value may be personal data.
QUOTED = re.compile(r"(Invalid enum value|Invalid value) .*?( - at|$)")


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return the decoder of one type. It is built once and kept."""
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind).decode
    return _decoders[kind]  # type: ignore[return-value]  # each is stored under its own type


def read(decode: Callable[[bytes], T], value: bytes) -> T:
    """Decode bytes; raises Malformed, which names the field and the fault and not the value."""
    try:
        return decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(QUOTED.sub(r"\1\2", str(error))) from None
