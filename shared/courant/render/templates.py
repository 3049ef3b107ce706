"""Templates: parsing their source, and putting the values in.

Placeholders are `((name))`; a conditional is `((name??text))`. Nothing is resolved inside a
conditional's text. Other modules render the filled text as an email or an SMS.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NewType
from uuid import UUID

from courant.recipients import key
from courant.render.typography import typography

# The innermost double brackets count: no third bracket may follow an opening pair.
PLACEHOLDER = re.compile(r"\(\((?!\(|\)\))(.+?)\)\)", re.DOTALL)
YES = frozenset(
    ("yes", "y", "true", "t", "1", "include", "show", "oui", "vrai", "inclure", "afficher")
)
UNSEEN = dict.fromkeys(map(ord, "\u180e\u200b\u200c\u200d\u2060\ufeff"))
AMPERSAND = re.compile(r"&(?!#?\w{1,32};)")

# Personalisation by the key of each name. Nulls are left out because they count as missing.
Values = NewType("Values", dict[str, object])


class ListStyle(Enum):
    """How a list among the values is written."""

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
    """A placeholder; `text` is a conditional's text, or None if the value itself is shown."""

    name: str
    key: str
    text: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed source: texts and placeholders in order, and the names as they are spelt."""

    parts: tuple[str | Placeholder, ...]
    names: tuple[str, ...]

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        return (part for part in self.parts if isinstance(part, Placeholder))


def parse(source: str) -> Parsed:
    """Parse a template's source; done once a version."""
    parts: list[str | Placeholder] = []
    names: dict[str, None] = {}
    end = 0
    # The search ends at the last closing pair. After it, each opening pair would be searched to the
    # end of the source.
    for match in PLACEHOLDER.finditer(source, 0, source.rfind("))") + 2):
        name, question, text = match[1].partition("??")
        names[name] = None
        parts += [source[end : match.start()]] if match.start() > end else []
        parts.append(Placeholder(name, key(name), text if question else None, match[0]))
        end = match.end()
    parts += [source[end:]] if end < len(source) else []
    return Parsed(tuple(parts), tuple(names))


def normalise(personalisation: Mapping[str, object]) -> Values:
    """Return the values by the key of their names; of names with the same key, the last wins."""
    values = {key(name): value for name, value in personalisation.items()}
    return Values({name: value for name, value in values.items() if value is not None})


def names(subject: Parsed | None, body: Parsed) -> list[str]:
    """List the names of a template's placeholders: the subject's first, each spelling once."""
    return list(dict.fromkeys((subject.names if subject else ()) + body.names))


def missing(subject: Parsed | None, body: Parsed, values: Values) -> list[str]:
    """List the placeholders without a value, in the order and spelling of `names`."""
    return [name for name in names(subject, body) if key(name) not in values]


def fill(parsed: Parsed, values: Values, lists: ListStyle) -> str:
    """Put the values in; a placeholder without a value keeps its source."""
    return "".join(
        [p if isinstance(p, str) else replacement(p, values, lists) for p in parsed.parts]
    )


def replacement(placeholder: Placeholder, values: Values, lists: ListStyle) -> str:
    """Return the text that replaces a placeholder."""
    value = values.get(placeholder.key)
    if value is None:
        return placeholder.source
    if placeholder.text is not None:
        return placeholder.text if means_yes(value) else ""
    return list_text(value, lists) if isinstance(value, list | tuple) else str(value)


def means_yes(value: object) -> bool:
    """Return whether a conditional's value means yes."""
    return str(value).lower() in YES


def list_text(value: list[object] | tuple[object, ...], lists: ListStyle) -> str:
    """Return a list as text, without empty and null entries; an empty list is an empty text."""
    items = [str(item) for item in value if item is not None and item != ""]
    if not items:
        return ""
    if lists is ListStyle.LINES:
        return "\n\n" + "\n".join(f"* {item}" for item in items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0]


def subject(parsed: Parsed, values: Values) -> str:
    """Return the subject as it is sent: with values and typography, white space collapsed."""
    filled = typography(fill(parsed, values, ListStyle.WORDS)).translate(UNSEEN)
    return " ".join(filled.split())


def escaped(text: str) -> str:
    """Escape a sent subject for HTML, as the API shows it; entities in it stay as they are."""
    return AMPERSAND.sub("&amp;", text).replace("<", "&lt;").replace(">", "&gt;")
