"""Turn a valid JSON body into a malformed or odd one."""

from collections.abc import Callable

from hostile.http_request import Dice

DEPTHS = (10, 63, 64, 65, 100, 500, *range(900, 1_010, 3), 10_000, 100_000)
"""Nesting depths. Python's recursion limit is near 1,000; how near depends on the caller's own
depth, so the depths around it are close together."""


def cut(body: bytes, dice: Dice) -> bytes:
    return body[: dice.number(len(body))]


def changed(body: bytes, dice: Dice) -> bytes:
    at = dice.number(len(body))
    return body[:at] + bytes([dice.number(256)]) + body[at + 1 :]


def longer(body: bytes, dice: Dice) -> bytes:
    at = dice.number(len(body))
    more = dice.one(
        [b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"/*", b",", b"\xc0\x80"]
    )
    return body[:at] + more + body[at:]


def doubled(body: bytes, _: Dice) -> bytes:
    return body + body


def twice_named(body: bytes, dice: Dice) -> bytes:
    name = dice.one([b"template_id", b"reference", b"personalisation", b"email_address"])
    value = dice.one([b"7", b"null", b'"x"', b"{}", b"[]"])
    more = b'"%s":%s' % (name, value)
    return b"{" + more + b"," + body[1:] if dice.once_in(2) else body[:-1] + b"," + more + b"}"


def in_another_code(body: bytes, dice: Dice) -> bytes:
    return body.decode("utf-8", "replace").encode(
        dice.one(["utf-16", "utf-32", "utf-8-sig", "utf-7"])
    )


def deep(_: bytes, dice: Dice) -> bytes:
    depth = dice.one(DEPTHS)
    inner = b"[" * depth + b"]" * depth
    if dice.once_in(3):
        inner = b'{"a":' * depth + b"1" + b"}" * depth
    if dice.once_in(6):
        return inner[:depth]  # Without its closing brackets.
    return dice.one([b"%s", b'{"reference":%s}', b'{"personalisation":{"name":%s}}']) % inner


def huge_number(_: bytes, dice: Dice) -> bytes:
    number = dice.one([b"1e999", b"-1e999", b"9" * 4_300, b"9" * 4_301, b"9" * 50_000,
                       b"0." + b"1" * 50_000,
                       b"1e-999", b"01", b"+1", b".5", b"0x10", b"1_000", b"Infinity",
                       b"-NaN"])  # fmt: skip
    return b'{"reference":%s}' % number if dice.once_in(2) else number


def nothing(_: bytes, dice: Dice) -> bytes:
    return bytes(
        dice.one(
            [
                b"",
                b" ",
                b"\n\n",
                b"null",
                b"[]",
                b"{}",
                b'""',
                b"0",
                b"true",
                b"'a'",
                b"\xef\xbb\xbf",
            ]
        )
    )


def many_names(_: bytes, dice: Dice) -> bytes:
    return b"{" + b",".join(b'"x%d":%d' % (n, n) for n in range(dice.one([1, 2, 5_000]))) + b"}"


def surrogates(body: bytes, dice: Dice) -> bytes:
    lone = dice.one([b"\\ud800", b"\\udfff", b"\\ud83d\\ud83d", b"\\ude00\\ud83d"])
    return body.replace(b"someone", lone, 1) + (b"" if dice.once_in(2) else b" ")


WAYS: tuple[Callable[[bytes, Dice], bytes], ...] = (
    cut, changed, changed, longer, longer, doubled, twice_named, in_another_code, deep, deep,
        huge_number,
    nothing, many_names, surrogates,
)  # fmt: skip


def malformed(body: bytes, dice: Dice) -> bytes:
    """Return the body changed in one of the WAYS."""
    return bytes(dice.one(WAYS)(body, dice))
