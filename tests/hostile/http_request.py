"""An HTTP request of this suite, and the odd values that requests are made of."""

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hostile.contract_refusals import Refusal

LIST = "/v2/notifications"
EMAIL, SMS = f"{LIST}/email", f"{LIST}/sms"
JSON = {"content-type": "application/json"}
SPACES = ["", " ", "\t\r\n", "\u00a0", "\u200b", "\u2003", "\ufeff"]
TEXTS = [
    *SPACES, "x", "\0", "a\0b", "é", "Zoë\u0301", "\u202ereversed", "😀", "\U0010ffff", "'", '"',
    "\\", "((name))", "((name??x))", "[[en]]", "{{7*7}}", "%s%n%x", "%00", "../../etc/passwd",
    "'; DROP TABLE notifications; --", "<script>alert(1)</script>", "null", "None", "true", "0",
    "NaN", "x" * 5_000, "٣", "ﬀ", "İ", "ß" * 300, "\r\nX-Injected: 1", "\x1b[31m", "\x7f",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 7, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400,
    float("nan"), float("inf"),
]  # fmt: skip
NESTED: list[Any] = [[], {}, [[]], [None], {"": {}}, ["x", 1, None, True], {"a": {"b": {"c": []}}}]
ADDRESSES = [
    "", "nobody", "@", "a@", "@b.ca", "a@b", "a@b.c", "a..b@c.ca", "a b@c.ca", "a@b@c.ca",
    "a@-b.ca",
    "a@b_c.ca", "a@b..ca", '"a"@b.ca', "a;b@c.ca", f"{'a' * 320}@b.ca", f"a@{'b' * 64}.ca",
    f"a@{'b.' * 130}ca", "a@xn--.ca", "a@xn--a.ca", "a@\u00adb.ca", "a@bü.ca", "ä@b.ca", "a@b.ca\0",
    " a@b.ca\u200b", "A@B.CA", "a@b.xn--p1ai", "a@١٢.ca", "a@b.ca.", "<a@b.ca>", "a@[127.0.0.1]",
    "a@ⓑ.ca", "a\r\nbcc: x@b.ca", "a@" + "\U0001f4a9" * 60 + ".ca",
]  # fmt: skip
NUMBERS_CALLED = [
    "", "x", "1", "123", ";613", "613-555-0142;ext=5", "07700900123", "447911123456", "+1",
    "+6135550142", "+44 7911 123456", "(613) 555-0142 ext 5", "call 613-555-0142 now", "+0", "++1",
    "+883510000000094", "+8821234567890", "+979123456789", "+80012345678", "+85021234567",
    "+491644",
    "+29012345", "٦١٣٥٥٥٠١٤٢", "６１３５５５０１４２", "1" * 1_001, "+1" + "6" * 500, "()" * 400,
    "613 555 0142 " * 70, "+1 613\u2060555\u20600142", "+16132532222",
]  # fmt: skip
TIMES: list[Any] = [
    "", "now", "2001-01-01", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00+14:00", "2026-13-01",
    "2026-02-30", "2026-W53-7", "20261125T140000Z", "2026-11-25T24:00:00", "2026-11-25T14:00:60Z",
    "2026-11-25 14:00", "2026-11-25T14:00:00.1234567Z", "2026-11-25T14:00:00+99:99", "12:00", 0,
    "２０２６-11-25", "-2026-11-25", "+002026-11-25", "2026-11-25T14:00:00[UTC]", None, True,
]  # fmt: skip
IDS: list[Any] = [
    "", "x", None, 5, "00000000-0000-0000-0000-000000000000", "urn:uuid:{}", "{{{}}}", "{}0", " {}",
    "{}\0", "{}\n", "g" * 32, "f" * 32, "F" * 32, "ffffffff-ffffffff-ffffffff-ffffffff", [], {},
    "٣" * 32, "ffffffff-ffff-ffff-ffff-fffffffffffff",
]  # fmt: skip
TYPES = [
    "", "text/plain", "application/json;charset=utf-16", "application/jsonx", "application/ json",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
    "APPLICATION/VND.API+JSON", "application/+json", "application/json, text/plain", "*/*",
    "application/json; charset=\xff", "application/" + "x" * 4_000 + "+json",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X-Y"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request, and what its answer may be.

    A `known` request has a valid key. A `forged` one must be rejected. `allowed_503` lists the 503
    refusals that may answer the request.
    """

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    known: bool = False
    forged: bool = False
    large: bool = False  # The server may close the connection before it has read the body.
    allowed_503: tuple[Refusal, ...] = ()


class Dice:
    """Random choices from a seed, so that a run can be repeated."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def once_in(self, number: int) -> bool:
        return self.random.randrange(number) == 0

    def one(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def number(self, below: int) -> int:
        return self.random.randrange(below)

    def text(self) -> str:
        """Return one of TEXTS, or a text of random characters without surrogates."""
        if self.once_in(2):
            return str(self.one(TEXTS))
        points = (self.number(0x110000) for _ in range(self.number(20)))
        return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)

    def word(self) -> str:
        return "".join(self.random.choices(string.ascii_lowercase, k=8))

    def value(self) -> Any:
        """Return a JSON value of a random type."""
        kind = self.number(6)
        if kind == 0:
            return self.one([None, True, False])
        if kind == 1:
            return self.one(NUMBERS)
        if kind == 2:
            return self.one(NESTED)
        if kind == 3:
            return [self.value() for _ in range(self.number(4))]
        if kind == 4:
            return {self.text(): self.value() for _ in range(self.number(4))}
        return self.text()

    def id(self, good: str) -> Any:
        """Return an odd value in target of an id; some contain the valid id `good`."""
        odd = self.one(IDS)
        return odd.format(good) if isinstance(odd, str) and "{}" in odd else odd


def encoded(value: Any) -> bytes:
    """Encode a value as JSON in UTF-8; NaN and Infinity are written as Python writes them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
