"""Placeholders, conditionals, lists, missing values, and the subject."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.render import templates
from courant.render.templates import ListStyle
from courant.render.typography import typography


def filled(source: str, values: dict[str, object], lists: ListStyle = ListStyle.LINES) -> str:
    return templates.fill(templates.parse(source), templates.normalise(values), lists)


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("Hello ((name))", {"name": "Zoë"}, "Hello Zoë"),
        ("Hello ((name))", {"name": 5}, "Hello 5"),
        ("Hello ((name))", {"name": 1.5}, "Hello 1.5"),
        ("Hello ((name))", {"name": True}, "Hello True"),
        ("Hello ((name))", {"name": ""}, "Hello "),
        ("Hello ((name))", {"N A_me": " x "}, "Hello  x "),
        ("Hello ((name))", {"name": "x", "more": "y"}, "Hello x"),
        ("Hello ((name))", {"name": "a", "NAME": "b"}, "Hello b"),
        ("Hello ((name))", {"name": "((name))"}, "Hello ((name))"),
        (
            "Hello ((name))",
            {"name": "# x\n* y [l](https://e.ca)"},
            "Hello # x\n* y [l](https://e.ca)",
        ),
        ("(((c)))", {"c": "blue"}, "(blue)"),
        ("((((c))))", {"c": "blue"}, "((blue))"),
        ("((first name)) ((first_name))", {"First-Name": "x"}, "x x"),
        ("no ((end", {}, "no ((end"),
        ("no )) start", {}, "no )) start"),
        ("(()) ((a))", {"a": "x"}, "(()) x"),
        ("two\n((a\nb)) lines", {"a\nb": "x"}, "two\nx lines"),
        ("Hello ((name))", {}, "Hello ((name))"),
    ],
)
def test_values_replace_their_placeholders(
    source: str, values: dict[str, object], expected: str
) -> None:
    assert filled(source, values) == expected


YES = ("yes", "y", "true", "t", "1", "include", "show", "oui", "vrai", "inclure", "afficher")


@pytest.mark.parametrize("value", [*YES, "YES", "Oui", True, 1])
def test_a_conditional_shows_its_text_for_a_yes(value: object) -> None:
    assert filled("((c??a ?? b))", {"c": value}) == "a ?? b"


@pytest.mark.parametrize("value", ["no", "", " yes", "yes ", False, 0, 1.0, 2, [], ["yes"], ["y"]])
def test_a_conditional_shows_nothing_for_any_other_value(value: object) -> None:
    assert filled("x((c??a))", {"c": value}) == "x"


def test_nothing_is_resolved_inside_a_conditional() -> None:
    assert filled("((c??hi ((n))))", {"c": "yes", "n": "x"}) == "hi ((n))"


@pytest.mark.parametrize(
    ("value", "lines", "words"),
    [
        (["a", "b", "c"], "\n\n* a\n* b\n* c", "a, b and c"),
        (["a", "b"], "\n\n* a\n* b", "a and b"),
        (["a"], "\n\n* a", "a"),
        (["a", "", None, " ", 5, True], "\n\n* a\n*  \n* 5\n* True", "a,  , 5 and True"),
        ([], "", ""),
        (["", None], "", ""),
    ],
)
def test_a_list_is_lines_in_an_email_and_words_elsewhere(
    value: list[object], lines: str, words: str
) -> None:
    assert filled("Take ((these)).", {"these": value}) == f"Take {lines}."
    assert filled("Take ((these)).", {"these": value}, ListStyle.WORDS) == f"Take {words}."


def test_missing_names_are_listed_in_the_templates_order_and_spelling() -> None:
    subject = templates.parse("((date)) for ((First Name))")
    body = templates.parse("((c??x)) ((first_name)) ((date)) ((First Name)) ((other))")
    none = templates.normalise({})
    some = templates.normalise({"FIRSTNAME": "", "other": [], "c": None})
    assert templates.missing(subject, body, none) == [
        *("date", "First Name", "c", "first_name", "other"),
    ]
    assert templates.missing(subject, body, some) == ["date", "c"]
    assert templates.missing(None, templates.parse("((name))"), none) == ["name"]


def test_of_equal_names_the_last_wins_even_if_it_is_null() -> None:
    assert templates.normalise({"name": "a", "Name": None}) == {}


@pytest.mark.parametrize(
    ("source", "value", "sent", "shown"),
    [
        ("Hi", "", "Hi", "Hi"),
        (
            'Hi <b> it\'s - "q" & ((x)) - now',
            "x",
            "Hi <b> it’s – “q” & x – now",
            "Hi &lt;b&gt; it’s – “q” &amp; x – now",
        ),
        ("((x))", "<i>'a'</i>", "<i>’a’</i>", "&lt;i&gt;’a’&lt;/i&gt;"),
        ("  a \n b\t((x)) ", "c  d", "a b c d", "a b c d"),
        ("a , b . ((x))", "c ,", "a, b. c,", "a, b. c,"),
        ("a -- b --- ((x))", "– c", "a – b – – c", "a – b – – c"),
        ("well-known ((x))", "2-3", "well-known 2-3", "well-known 2-3"),
        ("((x))", "a\u200bb", "ab", "ab"),
        ("((x))", "&amp; &", "&amp; &", "&amp; &amp;"),
    ],
)
def test_a_subject_has_typography_when_sent_and_is_escaped_when_shown(
    source: str, value: str, sent: str, shown: str
) -> None:
    subject = templates.subject(templates.parse(source), templates.normalise({"x": value}))
    assert subject == sent
    assert templates.escaped(subject) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it's", "it’s"),
        ("'a' \"b\"", "‘a’ “b”"),
        ('("a") [\'b\'] - "c"', "(“a”) [‘b’] – “c”"),
        ("\"'a' b\"", "“‘a’ b”"),
        ("the '90s", "the ’90s"),
        ("5' 6\"", "5’ 6”"),
        ("to o'brien@x.ca it's", "to o'brien@x.ca it’s"),
        ("to o’brien@x.ca", "to o'brien@x.ca"),
        ('say "', "say “"),
    ],
)
def test_quotes_are_curled(text: str, expected: str) -> None:
    assert typography(text) == expected


def test_a_quote_depends_on_the_character_that_the_reader_sees_before_it() -> None:
    assert typography('" x', before="a") == "” x"


@pytest.mark.timeout(300)  # it takes 20 ms; a search that starts at every blank takes hours
def test_a_long_run_of_blanks_is_searched_once() -> None:
    blanks = "a" + " " * 500_000 + "b"
    assert typography(blanks) == blanks


@given(st.text(alphabet="((a?)) \n"), st.text())
def test_any_source_can_be_parsed_and_filled(source: str, value: str) -> None:
    parsed = templates.parse(source)
    assert "".join(p if isinstance(p, str) else p.source for p in parsed.parts) == source
    assert isinstance(filled(source, dict.fromkeys(parsed.names, value)), str)
