"""Rendering of whole emails: the short way returns the same as the full way."""

from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from courant.render import email, templates
from courant.render.email import PLAIN, Rendered
from courant.render.templates import ListStyle, TemplateVersion

ID = UUID(int=1)


def prepared(body: str, subject: str = "Hi") -> email.Prepared:
    return email.prepare(TemplateVersion(ID, 1, ID, "email", "a template", subject, body))


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("Zoë", "Hello Zoë"),
        (5, "Hello 5"),
        ("", "Hello "),
        ("# x\n* y [l](https://e.ca)", "Hello # x\n* y [l](https://e.ca)"),
        (" x ", "Hello  x "),
        ("Zoë <b>", "Hello Zoë <b>"),
    ],
)
def test_values_are_filled_in_as_in_the_recorded_answers(value: object, body: str) -> None:
    ready = prepared("Hello ((name))")
    values = templates.normalise({"name": value})
    assert templates.fill(ready.body, values, ListStyle.LINES) == body
    assert templates.escaped(templates.subject(ready.subject, values)) == "Hi"


def test_an_email_is_rendered_with_its_values() -> None:
    ready = prepared("Dear ((name)),\n\n* ((thing))\n\nIt's **((day))**", "For ((name)) - now")
    values = templates.normalise({"name": "O'Brien", "thing": "Passport", "day": "Tuesday"})
    assert ready.short
    assert email.render(ready, values) == Rendered(
        "For O’Brien – now",
        "Dear O’Brien,\n\n• Passport\n\nIt’s **Tuesday**\n",
        '<p>Dear O’Brien,</p><table role="presentation"><tr><td><ul><li>Passport</li></ul></td>'
        "</tr></table><p>It’s <strong>Tuesday</strong></p>",
    )


def test_markdown_in_values_is_rendered() -> None:
    ready = prepared("Hello ((name))\n\n[t](((u)))")
    values = templates.normalise({"name": "# x\n* y [l](https://e.ca)", "u": "https://x.ca/a?b=c"})
    assert email.render(ready, values).html == (
        '<p>Hello # x<br />* y <a href="https://e.ca">l</a></p>'
        '<p><a href="https://x.ca/a?b=c">t</a></p>'
    )


def test_a_list_is_rendered_as_a_list_and_an_empty_one_as_nothing() -> None:
    ready = prepared("Bring ((things))")
    some = email.render(ready, templates.normalise({"things": ["a", "", None, "b"]}))
    none = email.render(ready, templates.normalise({"things": []}))
    assert some.text == "Bring\n\n• a\n• b\n"
    assert none.html == "<p>Bring</p>"


@pytest.mark.parametrize(
    "body",
    [
        "((a))",
        "Dear ((a)), it is ((b)).",
        "**((a))** and _((b))_ (((c)))",
        "# ((a))\n\n* ((b))\n\n1. x ((c))\n\n^ ((d))",
        '"((a))" ((b))! ((c))? ((a))\'s',
        "[[fr]]\n((a))\n[[/fr]]",
    ],
)
def test_plain_templates_have_a_short_way(body: str) -> None:
    assert prepared(body).short


@pytest.mark.parametrize(
    "body",
    [
        "((c??text)) ((a))",
        "[t](((a)))",
        "https://x.ca/((a))",
        "((a))://x.ca",
        "((a))((b))",
        "((a)).((b))",
        "((a))@x.ca",
        "`((a))`",
        "```\n((a))\n```",
        "&((a));",
        "[it is ((a)) b](https://x.ca)",
        "[[((a))]]",
        "x (*((a))** b*",
        "![((a))](https://x.ca)",
    ],
)
def test_templates_whose_values_touch_other_text_have_no_short_way(body: str) -> None:
    assert prepared(body).short is None


@pytest.mark.parametrize("value", ["x", "O'Brien", "5", "$5.00", "St. John’s, 3-4 (rear) x"])
def test_everyday_values_are_plain(value: str) -> None:
    assert PLAIN.fullmatch(value)


SOURCES = st.lists(
    st.sampled_from(
        [
            *("((a))", "((b))", "((c))", "((a))", " ((b)) ", "\n((c))", "\n\n((a))"),
            *("Dear", "x", "1", " ", "\n", "\n\n", ". ", ", ", ".", "'s", '"', "'", "(", ")", ":"),
            *(
                "# ",
                "## ",
                "* ",
                "\n* ",
                "• ",
                "\n\n1. ",
                "^ ",
                "**",
                "*",
                "_",
                "`",
                "---",
                "\n---\n",
            ),
            *(
                "[",
                "](x)",
                "[t](",
                "https://x.ca ",
                "://",
                "http",
                "@x.ca",
                "&",
                ";",
                "&#",
                "\\",
                "|",
            ),
            *("|a|b|\n|-|-|\n", "~~", "[^1]", "\n\n[^1]: ", "[[en]]", "[[/en]]", " - ", "  ", "\t"),
            *("é", "<", ">", "!", "?", "’s", "-", "=", "```\n", "'90", "s"),
        ]
    ),
    max_size=16,
).map("".join)
# All plain values, with more of those that could go wrong at an edge.
VALUES = st.from_regex(PLAIN, fullmatch=True) | st.sampled_from(
    [
        *(
            "x",
            "5",
            "12",
            "1. x",
            "1.x",
            "$5",
            "a'b",
            "o'b@x.ca",
            "http",
            "https",
            "h",
            "amp",
            "lt",
        ),
        *("90s", "s", "x.ca", "a: b", "a (b) c", "-5", "5.", "*x*", "a_b", "x\n", "", " x", "<b>"),
        *("en", "a - b", "a , b", "It's 5", "É", "²", "日本", "a/b", "c@x", "60", "x; y"),
    ]
)


@given(SOURCES, st.fixed_dictionaries({"a": VALUES, "b": VALUES, "c": VALUES}))
@example("((a)). x", {"a": "5", "b": "", "c": ""})
@example("1((a)). x", {"a": "5", "b": "", "c": ""})
@example("x (*((a))** b*", {"a": "$5", "b": "", "c": ""})
@example("[it is ((a)) b](https://x.ca)", {"a": "o'b", "b": "", "c": ""})
@example("((a))'s", {"a": "o’b@x", "b": "", "c": ""})
@example("| ((a)) |\n| --- |\n", {"a": "5. x", "b": "", "c": ""})
def test_the_short_way_returns_the_same_as_the_full_way(source: str, given: dict[str, str]) -> None:
    ready, values = prepared(source), templates.normalise(given)
    both = email.join_plain(ready.short, values) if ready.short else None
    assume(both is not None)
    assert both == email.render_in_full(ready.body, values)


@given(SOURCES, st.dictionaries(st.sampled_from("abc"), st.text() | st.integers() | st.booleans()))
def test_any_values_render(source: str, given: dict[str, object]) -> None:
    assert email.render(prepared(source), templates.normalise(given)).text.endswith("\n")
