"""The HTML and the plain text of each construct of the templates' Markdown."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant.render.dialect import clean
from courant.render.markdown import Rendering, render
from courant.render.page import page

DASHES, EQUALS = "-" * 65, "=" * 65


def listed(inside: str) -> str:
    return f'<table role="presentation"><tr><td>{inside}</td></tr></table>'


# Each source, its HTML, and its text without the final line end.
TABLE = {
    "paragraphs": ("a\n\nb", "<p>a</p><p>b</p>", "a\n\nb"),
    "one line end": ("a\nb", "<p>a<br />b</p>", "a\nb"),
    "first heading": ("# x\ny", "<h2>x</h2><p>y</p>", f"x\n{DASHES}\n\ny"),
    "second heading": ("## x", "<h3>x</h3>", f"x\n{DASHES}"),
    "deeper heading": ("### x\n\n###### y", "<p>x</p><p>y</p>", "x\n\ny"),
    "underlined": ("x\n---\ny", "<h3>x</h3><p>y</p>", f"x\n{DASHES}\n\ny"),
    "no heading": ("#x", "<p>#x</p>", "#x"),
    "bullets": ("* a\n* b", listed("<ul><li>a</li><li>b</li></ul>"), "• a\n• b"),
    "dashes": ("- a\n- b", listed("<ul><li>a</li><li>b</li></ul>"), "• a\n• b"),
    "dots": ("• a\n• b", listed("<ul><li>a</li><li>b</li></ul>"), "• a\n• b"),
    "numbers": ("1. a\n2. b", listed("<ol><li>a</li><li>b</li></ol>"), "1. a\n2. b"),
    "two lists": (
        "* a\n\n1. b",
        listed("<ul><li>a</li></ul>") + listed("<ol><li>b</li></ol>"),
        "• a\n\n1. b",
    ),
    "nested": (
        "* a\n  * b\n* c",
        listed(f"<ul><li>a{listed('<ul><li>b</li></ul>')}</li><li>c</li></ul>"),
        "• a\n  • b\n• c",
    ),
    "item of two lines": ("* a\nb", listed("<ul><li>a<br />b</li></ul>"), "• a\nb"),
    "list right under text": ("x\n* a\n• b\n1. c", "<p>x<br />* a<br />• b<br />1. c</p>", None),
    "list after a blank line": ("x\n\n* a", "<p>x</p>" + listed("<ul><li>a</li></ul>"), "x\n\n• a"),
    "list under a heading": ("# x\n* a", None, f"x\n{DASHES}\n\n• a"),
    "quote": ("^ x\n^ y", "<blockquote><p>x<br />y</p></blockquote>", "x\ny"),
    "quote under text": ("a\n^ x", "<p>a</p><blockquote><p>x</p></blockquote>", "a\n\nx"),
    "no quote": ("> x", "<p>&gt; x</p>", "> x"),
    "underlined last line": (
        "Regards,\nService *Canada*\n---\nfooter",
        "<p>Regards,</p><h3>Service <em>Canada</em></h3><p>footer</p>",
        f"Regards,\n\nService _Canada_\n{DASHES}\n\nfooter",
    ),
    "rule": ("a\n\n---\n\nb", "<p>a</p><hr /><p>b</p>", f"a\n\n{EQUALS}\n\nb"),
    "rule of stars": ("a\n***\nb", "<p>a</p><hr /><p>b</p>", f"a\n\n{EQUALS}\n\nb"),
    "strong": ("**b**", "<p><strong>b</strong></p>", "**b**"),
    "emphasis": ("_i_ and *i*", "<p><em>i</em> and <em>i</em></p>", "_i_ and _i_"),
    "in a word": ("a_b_c", "<p>a_b_c</p>", "a_b_c"),
    "link": ("[t](https://x.ca)", '<p><a href="https://x.ca">t</a></p>', "t: https://x.ca"),
    "link with title": (
        '[t](https://x.ca "ti<")',
        '<p><a href="https://x.ca" title="ti&lt;">t</a></p>',
        "t (ti<): https://x.ca",
    ),
    "mail link": ("[t](mailto:a@x.ca)", '<p><a href="mailto:a@x.ca">t</a></p>', None),
    "telephone link": ("[t](tel:+16135550199)", '<p><a href="tel:+16135550199">t</a></p>', None),
    "link without scheme": ("[t](x.ca/y)", '<p><a href="x.ca/y">t</a></p>', "t: x.ca/y"),
    "quote in an address": (
        '[t](https://x.ca/"b)',
        '<p><a href="https://x.ca/%22b">t</a></p>',
        None,
    ),
    "bare URL": (
        "see https://x.ca/a_b_c?d=1&e.",
        '<p>see <a href="https://x.ca/a_b_c?d=1&amp;e">https://x.ca/a_b_c?d=1&amp;e</a>.</p>',
        "see https://x.ca/a_b_c?d=1&e.",
    ),
    "strong URL": (
        "**http://x.ca**",
        '<p><strong><a href="http://x.ca">http://x.ca</a></strong></p>',
        "**http://x.ca**",
    ),
    "URL that ends in a mark": (
        "go https://x.ca/v?t=abc_ or *https://x.ca/w*",
        (
            '<p>go <a href="https://x.ca/v?t=abc_">https://x.ca/v?t=abc_</a> or '
            '<em><a href="https://x.ca/w">https://x.ca/w</a></em></p>'
        ),
        "go https://x.ca/v?t=abc_ or _https://x.ca/w_",
    ),
    "URL with brackets": (
        "https://x.ca/?ids[]=1&ids[]=2",
        '<p><a href="https://x.ca/?ids%5B%5D=1&amp;ids%5B%5D=2">https://x.ca/?ids[]=1&amp;ids[]=2</a></p>',
        "https://x.ca/?ids[]=1&ids[]=2",
    ),
    "URL behind a word with a mark": (
        "order_id: https://x.ca/v?t=abc_",
        '<p>order_id: <a href="https://x.ca/v?t=abc_">https://x.ca/v?t=abc_</a></p>',
        "order_id: https://x.ca/v?t=abc_",
    ),
    "URL as a link's text": (
        "[https://x.ca](https://y.ca)",
        '<p><a href="https://y.ca">https://x.ca</a></p>',
        "https://x.ca: https://y.ca",
    ),
    "blank in a link's URL": (
        '[t](https://x.ca/?n=Ana Maria B "my title") [u](https://x.ca/a b)',
        (
            '<p><a href="https://x.ca/?n=Ana%20Maria%20B" title="my title">t</a> '
            '<a href="https://x.ca/a%20b">u</a></p>'
        ),
        "t (my title): https://x.ca/?n=Ana%20Maria%20B u: https://x.ca/a%20b",
    ),
    "no links": ("a@x.ca www.x.ca ftp://x.ca", "<p>a@x.ca www.x.ca ftp://x.ca</p>", None),
    "image": ("![alt](https://x.ca/i.png)", "<p>alt</p>", "alt"),
    "table": ("| a | b |\n| --- | --- |\n| 1 | 2 |", "<p>a b<br />1 2</p>", "a b\n1 2"),
    "code": ("`a*b*`", "<p>a*b*</p>", "a*b*"),
    "code block": ("```\n*a*\n<b>\n```", "<p>*a*<br />&lt;b&gt;</p>", "*a*\n<b>"),
    "indented": ("    a", "<p>a</p>", "a"),
    "struck through": ("~~a~~", "<p>a</p>", "a"),
    "footnote": ("a[^1]\n\n[^1]: note", "<p>a</p><p>note</p>", "a\n\nnote"),
    "escapes": (r"\*a\* \# \_b\_", "<p>*a* # _b_</p>", "*a* # _b_"),
    "entities": ("&lt;b&gt; &eacute; & &c", "<p>&lt;b&gt; é &amp; &amp;c</p>", "<b> é & &c"),
    "typography": (
        '"it\'s" a - b -- c --- d , e . f',
        "<p>“it’s” a – b – c – d, e. f</p>",
        "“it’s” a – b – c – d, e. f",
    ),
    "quotes around marks": ('"**a**"', "<p>“<strong>a</strong>”</p>", "“**a**”"),
    "no typography in links": (
        "[it's - x](https://x.ca)",
        '<p><a href="https://x.ca">it\'s - x</a></p>',
        None,
    ),
    "English": ("[[en]]\nx\n[[/en]]", '<div lang="en-ca"><p>x</p></div>', "x"),
    "French": (
        "a\n[[fr]]x[[/fr]]\nb",
        '<p>a</p><div lang="fr-ca"><p>x</p></div><p>b</p>',
        "a\n\nx\n\nb",
    ),
    "right to left": (
        "[[rtl]]\n\n* x\n\n[[/rtl]]",
        f'<div dir="rtl">{listed("<ul><li>x</li></ul>")}</div>',
        "• x",
    ),
    "both languages": (
        "[[en]]a[[/en]]\n[[fr]]b[[/fr]]",
        '<div lang="en-ca"><p>a</p></div><div lang="fr-ca"><p>b</p></div>',
        "a\n\nb",
    ),
    "language left open": ("[[en]]\nx", "<p>[[en]]<br />x</p>", "[[en]]\nx"),
    "one of two left open": (
        "[[fr]] [[en]]x[[/en]]",
        '<p>[[fr]]</p><div lang="en-ca"><p>x</p></div>',
        None,
    ),
    "languages crossed": (
        "[[en]][[fr]]x[[/en]][[/fr]]",
        "<p>[[en]][[fr]]x[[/en]][[/fr]]</p>",
        None,
    ),
    "nothing": ("", "", ""),
}


@pytest.mark.parametrize(("source", "html", "text"), TABLE.values(), ids=TABLE)
def test_each_construct_has_its_html_and_its_text(
    source: str, html: str | None, text: str | None
) -> None:
    both = render(source)
    assert html is None or both.html == html
    assert text is None or both.text == f"{text}\n"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "<java\tscript:alert(1)>",
        "javascript&colon;alert(1)",
        "&#106;avascript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc",
        "\u200bjavascript:x",
    ],
)
def test_a_link_with_a_harmful_scheme_leads_nowhere(url: str) -> None:
    assert render(f"[t]({url})").html == '<p><a href="#">t</a></p>'


def test_raw_html_is_escaped() -> None:
    both = render("<b>x</b>\n\n<div>\ny\n</div>\n\n<!-- z --><script>")
    assert both == Rendering(
        "<p>&lt;b&gt;x&lt;/b&gt;</p><p>&lt;div&gt;<br />y<br />&lt;/div&gt;</p>"
        "<p>&lt;!-- z --&gt;&lt;script&gt;</p>",
        "<b>x</b>\n\n<div>\ny\n</div>\n\n<!-- z --><script>\n",
    )


class Tags(HTMLParser):
    """Asserts that tags are ours and closed in order, and that links have allowed schemes."""

    allowed = frozenset(
        "p h2 h3 ul ol li table tr td blockquote hr br strong em a div".split()  # noqa: SIM905
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.allowed
        assert {name for name, _ in attrs} <= {"href", "title", "role", "lang", "dir"}
        for name, value in attrs:
            assert name != "href" or not re.match(
                r"\s*(?!https?:|mailto:|tel:)[^/?#]*:", value or ""
            )
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("br", "hr"):
            assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)


BITS = [
    *("a", "b c", " ", "\n", "\n\n", "# ", "## ", "* ", "- ", "• ", "1. ", "  ", "    ", "^ ", "^"),
    *("---", "***", "**", "*", "_", "`", "```\n", "[t](", "[", "]", "(", ")", "](x)", "![", "\\"),
    *("https://x.ca", "javascript:", "<", ">", "<b>", "<!--", "&", "&lt;", "&#60;", '"', "'", "|"),
    *("|a|b|\n|-|-|\n", "~~", "[^1]", "[^1]: x", "[[en]]", "[[/en]]", "[[fr]]", "[[/fr]]", " - "),
    *("\t", "\r\n", "\0", "\ufdd0", "\ufdd1en\n", "\u2028", "=", "é", "日", ":", '"t"', "@x.ca"),
    *("\x0b", "\x0c", "\x1f", "\x85", "\u00a0", "* * *", "."),
]


@given(st.lists(st.sampled_from(BITS), max_size=40).map("".join) | st.text())
def test_no_source_raises_or_breaks_the_html(source: str) -> None:
    both = render(clean(source))
    tags = Tags()
    tags.feed(both.html)
    tags.close()
    assert not tags.open
    assert not set("\0\ufdd0\ufdd1\u2028") & set(both.html + both.text)


@pytest.mark.parametrize(
    "bit",
    [
        *(
            "* ",
            "* a\n",
            "^ ",
            "^ a\n",
            "- 1. ",
            "1. a\n\n",
            "a\n- ",
            "[",
            "![",
            "[a](",
            "**a",
            "_",
        ),
        *("`", "<", "((", "[[en]]", "[[en]][[/en]]", " ", "\n", "'", "> ", "|", "|a|\n", "| - |\n"),
        *(
            "&",
            "&a",
            "[^1]: a\n",
            "[a]: b\n",
            "https://",
            "http://a ",
            "a@",
            "~~",
            " -",
            "\\",
            "```\n",
        ),
    ],
)
@pytest.mark.timeout(20)
def test_no_source_takes_long(bit: str) -> None:
    many = bit * (50_000 // len(bit))
    render(clean(f"a{many}b\n\n{many}"))


def test_a_page_contains_the_fragment_and_little_else() -> None:
    document = page("<p>x</p>", 'a <b> "c"', "1 < 2\n" * 200)
    assert document.startswith("<!doctype html>")
    assert "<main>\n<p>x</p>\n</main>" in document
    assert "<title>a &lt;b&gt; &quot;c&quot;</title>" in document
    preview = re.search(r'<div class="preview"[^>]*>([^<]*)</div>', document)
    assert preview
    assert unescape(preview[1]) == ("1 < 2 " * 200)[:256]
    assert len(page("", "", "")) < 2048
    assert not re.search(r"https?://|url\(|<img|<link|<script", page("", "", ""))
