"""The Markdown of templates: mistune's parser, with the rules that differ from CommonMark.

They are: `^` quotes; `•` is a bullet; a list does not interrupt a paragraph; an underlined heading
has one line; every line end is a break; indentation makes no code; HTML is text; bare URLs are
links; there are language blocks.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mistune import BlockParser, InlineParser, Markdown
from mistune.core import BlockState, InlineState
from mistune.plugins.footnotes import footnotes
from mistune.plugins.formatting import strikethrough
from mistune.plugins.table import table
from mistune.util import escape_url

Token = dict[str, Any]  # as mistune builds them: a type, and children, text or raw

NESTED_MAX = 6  # blocks inside blocks, and marks inside marks; anything deeper is text
# U+FDD0 to U+FDEF are never assigned to characters, so that no text needs them for itself.
SLOT = "\ufdd0"  # stands for a value whose text comes later
TAG = "\ufdd1"  # begins a line that opens or closes a language block
NO_CHARACTERS = dict.fromkeys([0, 0x2028, *range(0xFDD0, 0xFDF0)])

LANGUAGE = re.compile(r"\[\[(/?)(en|fr|rtl)\]\]")
MARKER = re.compile(r"( *)([*•-]|[0-9]{1,9}\.)[ \t]+(?=\S)")
RULE = re.compile(r" {0,3}((?:-[ \t]*){3,}|(?:_[ \t]*){3,}|(?:\*[ \t]*){3,})$")
ENDS_A_LIST = re.compile(rf" {{0,3}}(?:#{{1,6}}[ \t]|\^ ?\S|```|~~~)|{TAG}")
QUOTE_MARK = re.compile(r"^ *\^ ?", re.MULTILINE)
BARE_URL = r"""https?://(?:(?!\](?:\(|\[|$))[^\s<>])*[^\s<>\].,:"')]"""
# A value may put blanks into a link's URL. CommonMark would end the URL there and see no link.
LINK_WITH_BLANKS = re.compile(
    r"""(?<=\]\()(https?://[^\s()<>]*)((?: +(?!["'])[^\s()<>]+)+)(?= *\)| +["'])"""
)
CLOSING = re.compile(r"([*_~])\1*$")
INLINE_RULES = ["escape", "codespan", "emphasis", "link", "link_close", "linebreak"]
BLOCK_RULES = [
    "fenced_code", "language", "atx_heading", "setex_heading", "thematic_break",
    "block_quote", "list", "ref_link", "blank_line",
]  # fmt: skip


def clean(text: str) -> str:
    """Remove what no mail can show: NUL, the line separator, and code points without character."""
    return text if text.isascii() and "\0" not in text else text.translate(NO_CHARACTERS)


def parse(source: str) -> Sequence[Token]:
    """Return the blocks of a clean source, each with its inline tokens as children."""
    tokens, _ = MARKDOWN.parse(LINK_WITH_BLANKS.sub(_without_blanks, with_language_lines(source)))
    assert isinstance(tokens, list), "without a renderer mistune returns tokens"
    return tokens


def _without_blanks(match: re.Match[str]) -> str:
    return match[1] + match[2].replace(" ", "%20")


def with_language_lines(source: str) -> str:
    """Put each tag of a language block on a line of its own; tags that do not pair stay text."""
    tags = LANGUAGE.findall(source) if "[[" in source else []
    count = Counter(tags)
    paired = {tag for _, tag in count if count["", tag] == count["/", tag]}
    open_tags: list[str] = []
    for slash, tag in tags:
        if tag in paired and not slash:
            open_tags.append(tag)
        elif tag in paired and (not open_tags or open_tags.pop() != tag):
            return source

    def line(match: re.Match[str]) -> str:
        return f"\n\n{TAG}{match[1]}{match[2]}\n\n" if match[2] in paired else match[0]

    return LANGUAGE.sub(line, source) if paired else source


def _language(_: BlockParser, match: re.Match[str], state: BlockState) -> int:
    state.append_token({"type": "language", "raw": match["language_tag"]})
    return match.end() + 1


def _underlined(block: BlockParser, match: re.Match[str], state: BlockState) -> int | None:
    """Make only the line above a heading; the lines above that one are a paragraph."""
    last = state.last_token()
    lazy = state.cursor in state.lazy_line_starts  # then it is not a heading
    if last and last["type"] == "paragraph" and not lazy:
        above, _, line = last["text"].rstrip("\n").rpartition("\n")
        if above:
            last["text"] = above
            state.append_token({"type": "paragraph", "text": line})
    return block.parse_setex_heading(match, state)


def _quote(block: BlockParser, _: re.Match[str], state: BlockState) -> int:
    """Parse the lines up to the next blank line as a quote, without their marks."""
    end = state.cursor
    while end < state.cursor_max and (line := state.get_line(end)).strip():
        end += len(line)
    text = QUOTE_MARK.sub("", state.get_text(end))
    state.append_token({"type": "block_quote", "children": _inside(block, state, text)})
    return end


def _list(block: BlockParser, match: re.Match[str], state: BlockState) -> int:
    """Parse the items of a list; a list directly under text is text."""
    if state.parent is None and (end := state.append_paragraph()):
        return end
    items, end = _items(state)
    children = [
        {"type": "list_item", "children": _inside(block, state, "\n".join(item) + "\n")}
        for item in items
    ]
    ordered = match["list_marker"][-1] == "."
    state.append_token({"type": "list", "children": children, "attrs": {"ordered": ordered}})
    return end


def _items(state: BlockState) -> tuple[list[list[str]], int]:
    """Return the lines of each item, without its indent, and where the list ends.

    Bullets of any kind continue a list of bullets. After a blank line, a change between bullets and
    numbers begins another list.
    """
    items: list[list[str]] = []
    pos, base, width, blank, ordered = state.cursor, 0, 0, False, False
    while pos < state.cursor_max:
        raw = state.get_line(pos)
        line = raw.rstrip(" \t\n").expandtabs(4)
        indent = len(line) - len(line.lstrip(" "))
        marker = MARKER.match(line)
        if not line:
            blank = True
        elif marker and (not items or (indent < base + 2 and not RULE.match(line))):
            if items and blank and ordered != (marker[2][-1] == "."):
                break
            base, ordered = (base, ordered) if items else (indent, marker[2][-1] == ".")
            width = min(marker.end(), marker.end(2) + 4)
            items.append([line[marker.end() :]])
            blank = False
        elif indent >= base + 2:
            items[-1] += [""] * blank + [line[min(indent, width) :]]
            blank = False
        elif blank or ENDS_A_LIST.match(line) or RULE.match(line):
            break
        else:
            items[-1].append(line)
        pos += len(raw)
    return items, pos


def _inside(block: BlockParser, state: BlockState, text: str) -> list[Token]:
    """Parse the content of a quote or of a list item."""
    deep = state.depth() >= NESTED_MAX - 1
    rules = [rule for rule in block.rules if not deep or rule not in {"block_quote", "list"}]
    child = state.child_state(text)
    block.parse(child, rules)
    return child.tokens


def _url(_: InlineParser, match: re.Match[str], state: InlineState) -> int:
    url = match[0]
    # A mark that was opened before the URL and closes at its end is not part of the URL.
    if (mark := CLOSING.search(url)) and _opens(state.src[: match.start()], mark[0]):
        url = url[: mark.start()]
    state.append_token({"type": "url", "raw": url, "attrs": {"url": escape_url(url)}})
    return match.start() + len(url)


def _opens(text: str, mark: str) -> bool:
    behind_no_word = r"(?<!\w)" if mark[0] == "_" else ""  # inside a word, `_` is text
    return len(re.findall(behind_no_word + re.escape(mark), text)) % 2 == 1


def _build() -> Markdown:
    block = BlockParser(max_nested_level=NESTED_MAX)
    block.rules = list(BLOCK_RULES)
    block.register("language", rf"^{TAG}(?P<language_tag>/?(?:en|fr|rtl))$", _language)
    block.register("setex_heading", None, _underlined)
    block.register("block_quote", r"^ {0,3}\^ ?\S[^\n]*$", _quote)
    block.register("list", r"^ {0,3}(?P<list_marker>[*•-]|[0-9]{1,9}\.)[ \t]+\S[^\n]*$", _list)
    inline = InlineParser(hard_wrap=True, max_nested_level=NESTED_MAX)
    inline.rules = list(INLINE_RULES)
    inline.register("url", BARE_URL, _url, start_chars="h")
    return Markdown(None, block, inline, plugins=[table, footnotes, strikethrough])


MARKDOWN = _build()
