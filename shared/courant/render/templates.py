"""Templates: what their source says, and their source with the values put in.

Placeholders are `((name))`; a conditional is `((name??text))`. Nothing is resolved inside a
conditional's text. What Markdown or SMS make of the filled text is left to others.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NewType
from uuid import UUID

from courant.recipients import key
from courant.render.typography import typography

# The innermost double brackets count: an opening pair is one that no third bracket follows.
PLACEHOLDER = re.compile(r"\(\((?!\(|\)\))(.+?)\)\)", re.DOTALL)
YES = frozenset(
    ("yes", "y", "true", "t", "1", "include", "show", "oui", "vrai", "inclure", "afficher")
)
UNSEEN = dict.fromkeys(map(ord, "\u180e\u200b\u200c\u200d\u2060\ufeff"))
AMPERSAND = re.compile(r"&(?!#?\w{1,32};)")

# Personalisation by the key of its name, without the nulls, which count as missing.
Values = NewType("Values", dict[str, object])


class ListStyle(Enum):
    """How a list among the values reads."""

    LINES = "a Markdown list after a blank line"
    WORDS = "a, b and c"


@dataclass(frozen=True, slots=True)
class TemplateVersion:
    """One version of a template, as its service wrote it; `subject` is None for SMS."""

    id: UUID
    version: int
    service_id: UUID
    channel: Literal["email", "sms"]
    name: str
    subject: str | None
    body: str


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A place for a value; `text` is a conditional's, None where the value itself is shown."""

    name: str
    key: str
    text: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A source taken apart: texts and placeholders in order, and the names as they are spelt."""

    parts: tuple[str | Placeholder, ...]
    names: tuple[str, ...]

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        return (part for part in self.parts if isinstance(part, Placeholder))


def parse(source: str) -> Parsed:
    """Take a template's source apart; done once a version."""
    parts: list[str | Placeholder] = []
    names: dict[str, None] = {}
    end = 0
    # Not past the last closing pair: from there on each opening one would be searched to the end.
    for match in PLACEHOLDER.finditer(source, 0, source.rfind("))") + 2):
        name, asks, text = match[1].partition("??")
        names[name] = None
        parts += [source[end : match.start()]] if match.start() > end else []
        parts.append(Placeholder(name, key(name), text if asks else None, match[0]))
        end = match.end()
    parts += [source[end:]] if end < len(source) else []
    return Parsed(tuple(parts), tuple(names))


def normalise(personalisation: Mapping[str, object]) -> Values:
    """Key values by what their names are known by; of names that are the same, the last wins."""
    values = {key(name): value for name, value in personalisation.items()}
    return Values({name: value for name, value in values.items() if value is not None})


def names(subject: Parsed | None, body: Parsed) -> list[str]:
    """List a template's placeholders: the subject's first, each once a spelling."""
    return list(dict.fromkeys((subject.names if subject else ()) + body.names))


def missing(subject: Parsed | None, body: Parsed, values: Values) -> list[str]:
    """List the placeholders without a value, in the order and spelling of `names`."""
    return [name for name in names(subject, body) if key(name) not in values]


def fill(parsed: Parsed, values: Values, lists: ListStyle) -> str:
    """Put the values in. A placeholder without one keeps its source."""
    return "".join(
        [part if isinstance(part, str) else put(part, values, lists) for part in parsed.parts]
    )


def put(place: Placeholder, values: Values, lists: ListStyle) -> str:
    """Give what stands in a placeholder's place."""
    value = values.get(place.key)
    if value is None:
        return place.source
    if place.text is not None:
        return place.text if shown(value) else ""
    return listing(value, lists) if isinstance(value, list | tuple) else str(value)


def shown(value: object) -> bool:
    """Say whether a conditional's value means yes."""
    return str(value).lower() in YES


def listing(value: list[object] | tuple[object, ...], lists: ListStyle) -> str:
    """Give a list as text; empty and null entries are dropped, a list of nothing is nothing."""
    items = [str(item) for item in value if item is not None and item != ""]
    if not items:
        return ""
    if lists is ListStyle.LINES:
        return "\n\n" + "\n".join(f"* {item}" for item in items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0]


def subject(parsed: Parsed, values: Values) -> str:
    """Give the subject as it is sent: values in, typography done, white space collapsed."""
    filled = typography(fill(parsed, values, ListStyle.WORDS)).translate(UNSEEN)
    return " ".join(filled.split())


def escaped(text: str) -> str:
    """Give a sent subject as the API shows it, fit for HTML; entities that are there stay."""
    return AMPERSAND.sub("&amp;", text).replace("<", "&lt;").replace(">", "&gt;")
