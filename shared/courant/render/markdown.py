"""Rendering of Markdown to the two parts of an email: an HTML fragment and a plain text.

Raw HTML is always escaped. Of images, tables and code only the text is shown. The module `page`
adds the document around the fragment.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mistune.util import unescape

from courant.render.dialect import Token, parse
from courant.render.typography import typography

LINE_WIDTH = 65
HEADING_LINE = "-" * LINE_WIDTH
RULE_LINE = "=" * LINE_WIDTH
LANGUAGES = {"en": ' lang="en-ca"', "fr": ' lang="fr-ca"', "rtl": ' dir="rtl"'}
SCHEMES = frozenset({"http", "https", "mailto", "tel"})
# A mail program may read anything in front of a colon, before the path begins, as a scheme.
SCHEME = re.compile(r"([^/?#:]*):")
LIST_OPEN = '<table role="presentation"><tr><td>'
LIST_CLOSE = "</td></tr></table>"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The same content as HTML and as plain text."""

    html: str
    text: str


def render(source: str) -> Rendering:
    """Render a clean Markdown source."""
    both = render_blocks(parse(source))
    return Rendering(both.html, both.text + "\n")


def render_blocks(tokens: Sequence[Token]) -> Rendering:
    """Render blocks; in the text, a blank line separates them."""
    parts = [BLOCKS[token["type"]](token) for token in tokens if token["type"] in BLOCKS]
    return Rendering(
        "".join([p.html for p in parts]), "\n\n".join([p.text for p in parts if p.text])
    )


def _paragraph(token: Token) -> Rendering:
    both = render_inline(token["children"])
    return Rendering(f"<p>{both.html}</p>", both.text) if both.text.strip() else Rendering("", "")


def _heading(token: Token) -> Rendering:
    level = token["attrs"]["level"]
    both = render_inline(token["children"])
    if level > 2 or not both.text:
        return _paragraph(token)
    tag = "h2" if level == 1 else "h3"
    return Rendering(f"<{tag}>{both.html}</{tag}>", f"{both.text}\n{HEADING_LINE}")


def _rule(_: Token) -> Rendering:
    return Rendering("<hr />", RULE_LINE)


def _quote(token: Token) -> Rendering:
    both = render_blocks(token["children"])
    return Rendering(f"<blockquote>{both.html}</blockquote>", both.text)


def _listing(token: Token) -> Rendering:
    ordered = token["attrs"]["ordered"]
    items = [_item(each) for each in token["children"]]
    marks = [f"{n}." if ordered else "•" for n in range(1, len(items) + 1)]
    tag = "ol" if ordered else "ul"
    html = "".join([f"<li>{each.html}</li>" for each in items])
    text = "\n".join([f"{mark} {each.text}" for mark, each in zip(marks, items, strict=True)])
    return Rendering(f"{LIST_OPEN}<{tag}>{html}</{tag}>{LIST_CLOSE}", text)


def _item(token: Token) -> Rendering:
    """Render an item: its first paragraph has no tag, later blocks are indented in the text."""
    first, *others = token["children"] or [{"type": "blank_line"}]
    if first["type"] != "paragraph":
        return render_blocks(token["children"])
    lead, rest = render_inline(first["children"]), render_blocks(others)
    text = f"{lead.text}\n{rest.text}".replace("\n", "\n  ") if rest.text else lead.text
    return Rendering(lead.html + rest.html, text)


def _code(token: Token) -> Rendering:
    lines = token["raw"].rstrip("\n").split("\n")
    return Rendering(f"<p>{'<br />'.join(map(escape, lines))}</p>", "\n".join(lines))


def _table(token: Token) -> Rendering:
    """Render a table as text, one line for each row."""
    head, body = token["children"]
    rows = [_row(each) for each in [head, *body["children"]]]
    html = "<br />".join([each.html for each in rows])
    return Rendering(f"<p>{html}</p>", "\n".join([each.text for each in rows]))


def _row(token: Token) -> Rendering:
    cells = [render_inline(cell["children"]) for cell in token["children"]]
    return Rendering(" ".join([c.html for c in cells]), " ".join([c.text for c in cells]))


def _language(token: Token) -> Rendering:
    tag = token["raw"]
    return Rendering("</div>" if tag[0] == "/" else f"<div{LANGUAGES[tag]}>", "")


def _children(token: Token) -> Rendering:
    return render_blocks(token["children"])


BLOCKS: dict[str, Callable[[Token], Rendering]] = {
    "paragraph": _paragraph,
    "heading": _heading,
    "thematic_break": _rule,
    "block_quote": _quote,
    "list": _listing,
    "block_code": _code,
    "table": _table,
    "language": _language,
    "footnotes": _children,
    "footnote_item": _children,
}


def render_inline(tokens: Sequence[Token]) -> Rendering:
    """Render the content of one block."""
    line = InlineText()
    line.put(tokens)
    return Rendering("".join(line.html), "".join(line.text))


class InlineText:
    """The content of one block, written in order, so that typography sees the text before."""

    def __init__(self) -> None:
        self.html: list[str] = []
        self.text: list[str] = []
        self.last = ""  # the last character that the reader sees
        self.in_link = False

    def put(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            kind = token["type"]
            if kind == "text":
                self.put_text(unescape(token["raw"]))
            elif kind in MARKS:
                self.put_marked(token, *MARKS[kind])
            elif kind in ("link", "url") and not self.in_link:
                self.put_link(token)
            elif kind in ("softbreak", "linebreak"):
                self.write("<br />", "\n")
            elif "children" in token:
                self.put(token["children"])
            elif kind in ("codespan", "url"):
                self.write(escape(token["raw"]), token["raw"])

    def write(self, html: str, text: str) -> None:
        self.html.append(html)
        self.text.append(text)
        self.last = text[-1:] or self.last

    def put_text(self, text: str) -> None:
        text = text if self.in_link else typography(text, self.last)
        self.write(escape(text), text)

    def put_marked(self, token: Token, tag: str, mark: str) -> None:
        self.html.append(f"<{tag}>")
        self.text.append(mark)
        self.put(token["children"])
        self.html.append(f"</{tag}>")
        self.text.append(mark)

    def put_link(self, token: Token) -> None:
        attributes = token["attrs"]
        url = attributes["url"]
        title = attributes.get("title")
        with_title = f' title="{escape(title)}"' if title else ""
        self.html.append(f'<a href="{escape(safe_url(url))}"{with_title}>')
        if token["type"] == "url":
            self.write(escape(token["raw"]), token["raw"])
        else:
            self.in_link = True
            self.put(token["children"])
            self.in_link = False
            self.text.append(f" ({title}): {url}" if title else f": {url}")
        self.html.append("</a>")


MARKS = {"strong": ("strong", "**"), "emphasis": ("em", "_")}


def safe_url(url: str) -> str:
    """Return a link's target, or `#` if its scheme is not one of SCHEMES."""
    scheme = SCHEME.match(url)
    return "#" if scheme and scheme[1].lower() not in SCHEMES else url


def escape(text: str) -> str:
    """Escape a text for HTML; the result is safe in an attribute too."""
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )
