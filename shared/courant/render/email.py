"""Rendering of an email from a template version and its values, by a short way where it is safe.

Most values hold no Markdown. A template is rendered once with slots where its placeholders stand;
plain values are then only joined in. Values count as plain if the full way would return the same,
letter for letter. All others (Markdown, lists, conditionals, values in URLs) take the full way.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from courant.render import markdown, templates
from courant.render.dialect import SLOT, clean, with_language_lines
from courant.render.markdown import Rendering
from courant.render.templates import ListStyle, Parsed, TemplateVersion, Values
from courant.render.typography import typography

# Runs of letters and digits with one harmless separator between them. The separators contain no
# mark of Markdown and nothing that typography joins to its surroundings. Both ends of a value are
# letters or digits.
RUNS = r"(?:(?:[.,:;]? |[.,:/@'’+-]| \(|\) )[^\W_]+)*"
PLAIN = re.compile(rf"\$?[^\W_]+{RUNS}")
# At the start of a line a number may begin a list.
PLAIN_AT_START = re.compile(rf"[^\W\d_][^\W_]*{RUNS}")

# Text that may touch a placeholder. A longer word around it could become a URL, an address or an
# entity.
IN_FRONT = re.compile(r"[(\"“*_]*")
BEHIND = re.compile(r"[,;:!?).\"”*_]*|['’]s[.,]?")
# Both ways must render these values equally before a template's short way is trusted.
PROBES = ("x", "O'Brien-Smith", "Ab (c) d, e. f: g; h/i+1:2", "at b@c.ca, o'd@e.ca", "$5")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered email: the subject, the plain text, and the HTML fragment without its page."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A placeholder's key, and the pattern of the values that may be joined in there."""

    key: str
    plain: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class ShortWay:
    """A rendering cut at its slots: values go in at the odd indexes of `html` and `text`."""

    slots: tuple[Slot, ...]
    html: tuple[str, ...]
    text: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A template version ready to render; `short` is None if each message takes the full way."""

    version: TemplateVersion
    subject: Parsed
    body: Parsed
    short: ShortWay | None


def prepare(version: TemplateVersion) -> Prepared:
    """Prepare an email template for rendering; done once a version, in a few milliseconds."""
    subject, body = templates.parse(version.subject or ""), templates.parse(version.body)
    return Prepared(version, subject, body, find_short_way(body))


def render(prepared: Prepared, values: Values) -> Rendered:
    """Render an email for one recipient's values."""
    subject = templates.subject(prepared.subject, values)
    both = join_plain(prepared.short, values) if prepared.short else None
    both = both or render_in_full(prepared.body, values)
    return Rendered(subject, both.text, both.html)


def render_in_full(body: Parsed, values: Values) -> Rendering:
    """Put the values into the source and render the result."""
    return markdown.render(clean(templates.fill(body, values, ListStyle.LINES)))


def join_plain(short: ShortWay, values: Values) -> Rendering | None:
    """Join plain values into a rendering; return None if one is missing or not plain."""
    texts: list[str] = []
    for slot in short.slots:
        value = values.get(slot.key)
        text = value if isinstance(value, str) else str(value)
        if value is None or isinstance(value, list | tuple) or not slot.plain.fullmatch(text):
            return None
        texts.append(typography(text) if "'" in text or "’" in text else text)
    # Plain values need no escaping, so that HTML and text take the same ones.
    html, plain = list(short.html), list(short.text)
    html[1::2] = plain[1::2] = texts
    return Rendering("".join(html), "".join(plain))


def find_short_way(body: Parsed) -> ShortWay | None:
    """Cut a body's rendering at its placeholders; None if a value could change its surroundings.

    The probes catch cases that `placeholders_stand_apart` misses, such as conditionals or values in
    code.
    """
    if not placeholders_stand_apart(body.parts):
        return None
    source = "".join(clean(part) if isinstance(part, str) else SLOT for part in body.parts)
    both = markdown.render(source)
    html, text = both.html.split(SLOT), both.text.split(SLOT)
    keys = [placeholder.key for placeholder in body.placeholders]
    if not len(html) == len(text) == len(keys) + 1:
        return None
    slots = tuple(map(Slot, keys, plain_patterns(with_language_lines(source))))
    short = ShortWay(slots, with_gaps(html), with_gaps(text))
    probes = [probe_values(slots, probe) for probe in PROBES]
    equal = all(join_plain(short, probe) == render_in_full(body, probe) for probe in probes)
    return short if equal else None


def probe_values(slots: Sequence[Slot], probe: str) -> Values:
    """Return a value for each slot: the probe with a number, or a letter if that is not plain."""
    values: dict[str, object] = {slot.key: f"{probe}{n}" for n, slot in enumerate(slots)}
    not_plain = [s.key for s in slots if not s.plain.fullmatch(str(values[s.key]))]
    return Values(values | dict.fromkeys(not_plain, "x"))


def with_gaps(pieces: Sequence[str]) -> tuple[str, ...]:
    """Insert an empty text, to be replaced by a value, between each two pieces."""
    return tuple(text for piece in pieces for text in (piece, ""))[:-1]


def placeholders_stand_apart(parts: Sequence[object]) -> bool:
    """Return whether each placeholder is a separate word, except for punctuation and emphasis."""
    last = len(parts) - 1
    for index, part in enumerate(parts):
        if not isinstance(part, str):
            if index < last and not isinstance(parts[index + 1], str):
                return False
            continue
        words = re.split(r"\s", part)
        between = 0 < index < last
        if between and len(words) == 1:
            return False
        if index > 0 and not BEHIND.fullmatch(words[0]):
            return False
        if index < last and not IN_FRONT.fullmatch(words[-1]):
            return False
    return True


def plain_patterns(source: str) -> Iterator[re.Pattern[str]]:
    """Yield, for each slot in a source, the pattern of the values that are plain there."""
    for match in re.finditer(SLOT, source):
        start = match.start()
        line = source[source.rfind("\n", 0, start) + 1 : start]
        yield PLAIN if any(map(str.isalpha, line)) else PLAIN_AT_START
