"""Which texts are recipients, and how they are cleaned."""

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberMatcher

from courant import recipients
from courant.recipients import Email, Phone, Unusable

ADDRESSES = {
    "a@example.com": "a@example.com",
    " A@Example.com ": "a@example.com",
    "\ufeffa\u200b@exam\u2060ple.com\n": "a@example.com",
    "o'brien.x+tag_1@a-b.example.ca": "o'brien.x+tag_1@a-b.example.ca",
    "!#$%&'*+/=?^_`{|}~-@x.ca": "!#$%&'*+/=?^_`{|}~-@x.ca",
    ".first.and.last.@x.ca": ".first.and.last.@x.ca",
    "a@x.xn--p1ai": "a@x.xn--p1ai",
    "ÉLAN@x.ca": "élan@x.ca",
    "a@Québec.CA": "a@québec.ca",
    f"{'a' * 313}@x.caab": f"{'a' * 313}@x.caab",
}
NO_ADDRESSES = [
    "", "nobody", "a@", "@x.ca", "a@b@x.ca", "a b@x.ca", "a@x.ca b", '"a"@x.ca', "a;b@x.ca",
    "a..b@x.ca", "a@x..ca", "a@x.ca.", "a@.x.ca", "a@x", "a@x.c", "a@x.c1", "a@x.123", "a@x_y.ca",
    "a@-x.ca", "a@x-.ca", f"a@{'x' * 64}.ca", f"a@{'x.' * 126}caa", f"{'a' * 314}@x.caab",
    "日@x.ca", "ā@x.ca", "\u212a@x.ca", "a,b@x.ca", "<a@x.ca>", "a(b)@x.ca", "a@☃.ca",
    "a@x.ca,b@x.ca",
]  # fmt: skip


@pytest.mark.parametrize(("text", "address"), ADDRESSES.items())
def test_a_good_address_is_cleaned_and_lower_case(text: str, address: str) -> None:
    found = recipients.email(text)
    assert (found.given, found.address) == (text, address)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_a_bad_address_is_refused_with_the_message_that_clients_know(text: str) -> None:
    with pytest.raises(Unusable, match=r"^Not a valid email address$"):
        recipients.email(text)


def test_a_host_is_sent_in_punycode() -> None:
    assert recipients.email("a@Québec.ca") == Email(
        "a@Québec.ca", "a@québec.ca", "a@xn--qubec-csa.ca", sendable=True
    )


def test_letters_outside_ascii_in_front_of_the_at_are_valid_but_cannot_be_sent() -> None:
    assert not recipients.email("élan@x.ca").sendable
    assert recipients.email("elan@x.ca").sendable


NUMBERS = {
    "+16135550199": ("+16135550199", False),
    "6135550199": ("+16135550199", False),
    "1-613-555-0199": ("+16135550199", False),
    "(613) 555-0199": ("+16135550199", False),
    "613.555.0199": ("+16135550199", False),
    "(613) 555-0199 ext 5": ("+16135550199", False),
    "call 613-555-0199 now": ("+16135550199", False),
    "+1 242 365 1234": ("+12423651234", False),
    "+44 7911 123456": ("+447911123456", True),
    f"{' ' * 988}+16135550199": ("+16135550199", False),
    "+33 6 12 34 56 78": ("+33612345678", True),
}
NO_NUMBERS = {
    "613555019;9": "Not a valid number",
    "+1613;5550199": "Not a valid number",
    "6135550199;": "Not a valid number",
    "": "Not a valid international number",
    "letters": "Not a valid international number",
    "+1613": "Not a valid international number",
    "+999999999999": "Not a valid international number",
    "613555019": "Not a valid international number",
    "61355501999": "Not a valid international number",
    "07700900123": "Not a valid international number",
    "447911123456": "Not a valid international number",
    "1234567890": "Not a valid international number",
    f"{' ' * 989}+16135550199": "Not a valid international number",
    "+491644": "Not enough digits",
    "+8501912345678": "Country code 850 is not supported",
    "+88216 12345678": "Country code 882 is not supported",
    "+979 123456789": "Country code 979 is not supported",
    "+800 12345678": "Country code 800 is not supported",
}


@pytest.mark.parametrize(("text", "wanted"), NUMBERS.items())
def test_a_number_is_found_in_any_spelling(text: str, wanted: tuple[str, bool]) -> None:
    assert recipients.phone(text) == Phone(text, *wanted)


@pytest.mark.parametrize(("text", "message"), NO_NUMBERS.items())
def test_a_bad_number_is_refused_with_the_message_that_clients_know(
    text: str, message: str
) -> None:
    with pytest.raises(Unusable) as refused:
        recipients.phone(text)
    assert str(refused.value) == message


def by_search(text: str) -> str | None:
    """Return the number that the library's search finds, or None."""
    found = next(iter(PhoneNumberMatcher(text, "US")), None)
    return phonenumbers.format_number(found.number, PhoneNumberFormat.E164) if found else None


FORMS = ("{}{}{}", "1{}{}{}", "+1{}{}{}", "({}) {}-{}", "{} {} {}", "{}-{}-{}", "+1-{}-{}-{}")
CODES = st.sampled_from(
    ["613", "416", "242", "268", "787", "809", "671", "876", "500", "521", "710", "800", "900"]
)


@given(
    st.sampled_from((*FORMS, "+1 {} {} {}", "+1 {}-{}-{}", "{} {}-{}", "+1-{} {} {}")),
    CODES | st.from_regex(r"[0-9]{3}", fullmatch=True),
    st.from_regex(r"[0-9]{3}", fullmatch=True),
    st.from_regex(r"[0-9]{4}", fullmatch=True),
)
@example("+1{}{}{}", "613", "555", "0199")
def test_the_quick_match_returns_the_same_number_as_the_search(
    form: str, a: str, b: str, c: str
) -> None:
    text = form.format(a, b, c)
    try:
        found: str | None = recipients.phone(text).number
    except Unusable:
        found = None
    assert found == by_search(text)


@given(st.text() | st.emails() | st.from_regex(recipients.ADDRESS, fullmatch=True))
def test_cleaning_an_address_twice_changes_nothing(text: str) -> None:
    try:
        found = recipients.email(text)
    except Unusable:
        return
    again = recipients.email(found.address)
    assert (again.address, again.wire) == (found.address, found.wire)
    assert found.wire.isascii() == found.sendable


@given(st.text() | st.from_regex(r"[+]?[0-9 ()-]{6,18}", fullmatch=True))
def test_reading_a_cleaned_number_again_changes_nothing(text: str) -> None:
    try:
        found = recipients.phone(text)
    except Unusable:
        return
    again = recipients.phone(found.number)
    assert (again.number, again.international) == (found.number, found.international)


def test_lists_are_compared_in_any_spelling() -> None:
    addresses = recipients.listed("email", ["Simulate@Example.CA", "no address"])
    numbers = recipients.listed("sms", ["+16132532222", "(613) 253-2223", "+44 7911 123456"])
    assert recipients.simulated(recipients.email(" simulate@example.ca"), addresses)
    assert not recipients.simulated(recipients.email("other@example.ca"), addresses)
    assert recipients.simulated(recipients.phone("613 253 2222"), numbers)
    assert recipients.simulated(recipients.phone("+16132532223"), numbers)
    assert recipients.among(recipients.phone("+447911123456"), numbers)
    assert not recipients.among(recipients.phone("+16135550199"), numbers)


@pytest.mark.parametrize("name", ["first name", "First_Name", "FIRST-NAME", " firstname "])
def test_names_are_the_same_without_case_spaces_underscores_and_dashes(name: str) -> None:
    assert recipients.key(name) == "firstname"


@given(st.text())
def test_the_key_of_a_key_is_the_same(name: str) -> None:
    assert recipients.key(recipients.key(name)) == recipients.key(name)
