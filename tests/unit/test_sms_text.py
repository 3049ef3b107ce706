"""The text of an SMS: the characters that are kept, the length, the number of parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.render import sms

CHANGED = {
    "dashes": ("a – b — c", "a - b - c"),
    "ellipsis": ("wait…", "wait..."),
    "curly quotes": ("‘x’ “y”", "'x' \"y\""),
    "tab": ("a\tb", "a b"),
    "no-break space": ("a\u00a0b", "ab"),
    "zero-width space": ("a\u200bb", "ab"),
    "other accents": ("ÿ ñ ő ǖ ế", "y ñ o ü ê"),
    "half, degree, backtick, emoji": ("½°`🎉", "????"),
    "other scripts": ("日й", "??"),
    "no letter with an accent": ("≠", "?"),
    "escape is no character": ("a\x1bb", "a?b"),
    "space before comma and stop": ("a , b . c  .", "a, b. c."),
    "line ends": ("a\r\nb\rc\nd", "a\nb\nc\nd"),
    "trimmed": ("  a \n", "a"),
}


@pytest.mark.parametrize(("given_text", "expected"), CHANGED.values(), ids=CHANGED)
def test_characters_that_telephones_lack_are_replaced(given_text: str, expected: str) -> None:
    assert sms.content(given_text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ!\"#¤%&'()*+-/0123456789:;<=>?¡",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà",
        "^{}\\[~]|€",
        "ÂâÊêÎîÔôÛûŴŵŶŷ",
        "ÀÂËÎÏÔŒÙÛâçêëîïôœû",
        "ᐃᓄᒃᑎᑐᑦ",
        "𑪶𑪺",
    ],
)
def test_characters_of_gsm_and_of_the_countrys_languages_are_kept(text: str) -> None:
    assert sms.content(text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Zoë", "Hello Zoë"),
        ("é — “x” … ê 日 🎉", 'Hello é - "x"... ê ? ?'),
        ("a\tb\u00a0c\u200bd", "Hello a bcd"),
        ("x" * 600, "Hello " + "x" * 600),
    ],
)
def test_values_are_filled_in_as_in_the_recorded_answers(value: str, expected: str) -> None:
    assert sms.content(f"Hello {value}") == expected


def test_the_prefix_is_only_in_what_is_sent() -> None:
    assert sms.content(" Hi ") == "Hi"
    assert sms.sent("Hi ", "Parks – Canada") == "Parks - Canada: Hi"
    assert sms.sent(" Hi ", None) == "Hi"


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("abc", None, 3),
        ("^{}\\[~]|€", None, 18),
        ("ê€", None, 2),
        ("ᐃ[", None, 2),
        ("abc", "Parks", 10),
        ("é€", None, 3),
    ],
)
def test_length_is_counted_in_units(text: str, prefix: str | None, expected: int) -> None:
    assert sms.units(text, prefix) == expected


def test_the_limit_is_612_units_with_the_prefix() -> None:
    assert not sms.too_long("x" * 612)
    assert sms.too_long("x" * 613)
    assert sms.too_long("x" * 606, "Parks")
    assert not sms.too_long("x" * 605, "Parks")
    assert sms.too_long("€" * 307)
    assert not sms.too_long("€" * 306)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 1),
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("x" * 306, 2),
        ("x" * 307, 3),
        ("x" * 612, 4),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("ê" * 70, 1),
        ("ê" * 71, 2),
        ("ê" * 134, 2),
        ("ê" * 135, 3),
    ],
)
def test_parts_are_shorter_once_there_are_two(text: str, expected: int) -> None:
    assert sms.fragments(text) == expected


def test_the_prefix_counts_among_the_parts() -> None:
    assert sms.fragments("x" * 155, "Parks") == 2


@given(st.text())
def test_only_kept_characters_remain_and_a_second_call_changes_nothing(text: str) -> None:
    once = sms.content(text)
    assert set(once) <= sms.KEPT - {"\r"}
    assert sms.content(once) == once
