"""Columns are found by their headers, and the faults of rows are reported."""

from typing import Any

import pytest

from courant.contracts import JobRow
from courant.crypto import keyed_hash
from courant.topics import Channel
from support.ingest.uploads import BULK, Cells, bulk, error_text, job, table
from support.ingest.world import HASH_KEY, World, template

EMAIL, SMS = Channel.EMAIL, Channel.SMS


def world(channel: Channel, body: str, subject: str = "Hi") -> World:
    found = World()
    more = {"subject": subject} if channel is EMAIL else {}
    found.change(template(channel, body=body, **more))
    return found


def rows(channel: Channel, body: str, *given: list[object], subject: str = "Hi") -> list[JobRow]:
    there = world(channel, body, subject)
    answer = there.post(BULK, bulk(channel, rows=list(given)))
    assert answer.status_code == 201, answer.text
    return job(there)[1]


def refusal(channel: Channel, body: str, *given: list[object], subject: str = "Hi") -> str:
    there = world(channel, body, subject)
    answer = there.post(BULK, bulk(channel, rows=list(given)))
    assert answer.status_code == 400, answer.text
    assert there.log.records == []
    return error_text(answer)


def test_headers_match_in_any_spelling_and_other_columns_are_ignored() -> None:
    [row] = rows(
        EMAIL,
        "((First Name)) ((c??x))",
        ["age", "EMAIL_ADDRESS", "first-name", " C ", "Reference"],
        ["7", " A@example.com\u200b", "Zo\u200bë", "yes", "r-1"],
    )
    who = keyed_hash(HASH_KEY.encode(), b"email", b"a@example.com")
    assert row == JobRow(
        to="A@example.com",
        recipient_hash=who,
        personalisation={"First Name": "Zoë", "c": "yes"},
        reference="r-1",
    )


@pytest.mark.parametrize("header", ["numéro de téléphone", "Nume\u0301ro_de_te\u0301le\u0301phone"])
def test_french_headers_name_the_recipient_and_their_cells_are_checked(header: str) -> None:
    [row] = rows(SMS, "x", [header, "y"], ["(613) 555-0199", "z"])
    assert row.to == "(613) 555-0199"
    assert refusal(SMS, "x", [header], ["7"]) == (
        f"Some rows have errors. Row 0 - `{header}`: invalid recipient."
    )
    [row] = rows(EMAIL, "x", ["Adresse courriel"], ["a@example.com"])
    assert row.to == "a@example.com"


def test_columns_with_one_header_make_a_list_and_of_two_spellings_the_last_counts() -> None:
    [row] = rows(
        EMAIL, "((item))", ["email address", "item", "item", "item"], ["a@b.ca", "x", "", "z"]
    )
    assert row.personalisation == {"item": ["x", "z"]}
    [row] = rows(EMAIL, "((item))", ["email address", "Item", "item"], ["a@b.ca", "x", "y"])
    assert row.personalisation == {"item": "y"}
    assert refusal(EMAIL, "((item))", ["email address", "Item", "item"], ["a@b.ca", "", "y"]) == (
        "Some rows have errors. Row 0 - `Item`: Missing."
    )
    assert refusal(
        EMAIL, "((item))", ["email address", "item", "item"], ["a@b.ca", "", "\u200b "]
    ) == ("Some rows have errors. Row 0 - `item`: Missing.")


def test_a_recipient_may_be_a_placeholder_too() -> None:
    [row] = rows(EMAIL, "((email address))", ["email address"], ["a@b.ca"])
    assert row.personalisation == {"email address": "a@b.ca"}
    assert refusal(EMAIL, "((email address))", ["email address"], [""], ["a@b.ca"]) == (
        "Some rows have errors. Row 0 - `email address`: Missing."
    )


HEADERS: list[tuple[list[object], str]] = [
    (["name"], "Missing column headers: email address, x y"),
    (["email address"], "Missing column headers: name, x y"),
    ([""], "Missing column headers: email address, name, x y"),
    (
        ["email address", "Email-Address", "name", "xy"],
        "Duplicate column headers: Email-Address, email address",
    ),
    (
        ["adresse courriel", "email address", "name", "xy"],
        "Duplicate column headers: adresse courriel, email address",
    ),
    (["c"] * 1001, "Too many columns. Maximum number of columns allowed is 1000"),
]


@pytest.mark.parametrize(("header", "text"), HEADERS, ids=str)
def test_a_bad_header_is_refused(header: list[object], text: str) -> None:
    assert refusal(EMAIL, "((name))", header, ["a"], subject="((x y))") == text


LARGE = "Personalisation variables size of 51201 bytes is greater than allowed limit of 51200 bytes"
ERRORS: list[tuple[Channel, str, list[object], str]] = [
    (EMAIL, "((n))", ["a@b.ca"], "`n`: Missing"),
    (EMAIL, "((n))", [None, None], "`who`: Missing,`n`: Missing"),
    (EMAIL, "((n))", [], "`who`: Missing,`n`: Missing"),
    (EMAIL, "((n))", ["a@b", "x"], "`who`: invalid recipient"),
    (EMAIL, "((n))", ["a@b.ca", "x", "r\0"], "`reference`: must not contain NUL characters"),
    (EMAIL, "((n))", ["a@b.ca", "x" * 51_201], LARGE),
    (EMAIL, "((n??x))", ["a@b.ca", "no"], "Message is empty or just whitespace"),
    (SMS, "((n??x))", ["6135550199", "no"], "Message is empty or just whitespace"),
    (SMS, "((n))", ["613;", "x"], "`who`: invalid recipient"),
]


@pytest.mark.parametrize(("channel", "body", "row", "text"), ERRORS, ids=str)
def test_errors_of_a_row_name_their_column(
    channel: Channel, body: str, row: list[object], text: str
) -> None:
    who = "email address" if channel is EMAIL else "phone number"
    wanted = f"Some rows have errors. Row 0 - {text.replace('who', who)}."
    good = ["a@b.ca" if channel is EMAIL else "6135550199", "yes"]
    assert refusal(channel, body, [who, "n", "reference"], row, good) == wanted


def test_a_long_header_is_cut_in_the_error() -> None:
    long = "n" + "_" * 500
    assert refusal(EMAIL, "((n))", ["email address", long], ["a@b.ca", ""]) == (
        f"Some rows have errors. Row 0 - `n{'_' * 99}`: Missing."
    )


def test_errors_are_listed_in_the_order_of_the_columns() -> None:
    assert refusal(EMAIL, "((n)) ((m))", ["m", "email address", "n"], ["", "x", ""]) == (
        "Some rows have errors. Row 0 - `m`: Missing,`email address`: invalid recipient,"
        "`n`: Missing."
    )


CELLS: list[tuple[Any, str]] = [
    (5, "iterable expected, not int"),
    ("ab", "iterable expected, not str"),
    ({"a": 1}, "iterable expected, not dict"),
    (None, "iterable expected, not NoneType"),
    ([["x"]], "a cell is a list or an object"),
    (["x" * 131_073], "a cell has more than 131072 characters"),
]


@pytest.mark.parametrize(("row", "text"), CELLS, ids=[each[1] for each in CELLS])
def test_a_row_that_csv_cannot_hold_is_refused(row: Any, text: str) -> None:
    header: list[object] = ["email address"]
    assert refusal(EMAIL, "x", header, row) == f"Error converting to CSV: {text}"


def test_a_row_that_is_no_array_is_reported_before_errors_of_the_header() -> None:
    given: list[Any] = [["email address"], ["a@b.ca"], 5]
    assert refusal(EMAIL, "((n))", *given) == "Error converting to CSV: iterable expected, not int"


def test_cells_that_are_no_text_are_read_as_csv_would_have_them() -> None:
    given: Cells = [["email address", "n"], ["a@b.ca", 7], ["a@b.ca", 1.5], ["a@b.ca", True]]
    assert [row.personalisation["n"] for row in rows(EMAIL, "((n))", *given)] == [
        "7",
        "1.5",
        "True",
    ]


def test_blank_rows_count_in_the_middle_and_not_at_either_end() -> None:
    there = world(EMAIL, "x")
    text = "\n , \n" + table(["email address", "y"], ["a@b.ca"]) + " ,,\n\n , "
    answer = there.post(BULK, bulk(csv=text))
    assert answer.json()["data"]["notification_count"] == 1
    text = table(["email address"], ["a@b.ca"]) + "\n" * 30 + "b@b.ca\n"
    answer = there.post(BULK, bulk(csv=text))
    wanted = " ".join(f"Row {n} - `email address`: Missing." for n in range(1, 21))
    assert error_text(answer) == f"Some rows have errors. {wanted}"
