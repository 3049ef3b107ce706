"""The content of a notification as the API shows it: the template's source with its values."""

from collections.abc import Mapping
from dataclasses import dataclass

from courant.contracts import Scalar
from courant.directory.entries import Directory, Template
from courant.render import sms, templates
from courant.render.templates import ListStyle, Parsed, Values
from courant.topics import Channel

INT64 = range(-(2**63), 2**63)
Personalisation = dict[str, Scalar | list[Scalar]]


@dataclass(frozen=True, slots=True)
class CompiledTemplate:
    """A version of a template, parsed once."""

    template: Template
    subject: Parsed | None
    body: Parsed

    @property
    def may_be_empty(self) -> bool:
        """Whether the body has only placeholders, so that values can make it blank."""
        return not any(isinstance(part, str) and part.strip() for part in self.body.parts)

    def missing(self, values: Values) -> list[str]:
        """List the placeholders that have no value."""
        return templates.missing(self.subject, self.body, values)

    def text(self, values: Values) -> str:
        """Return the body: the source of an email, or an SMS as it is sent, less its prefix."""
        if self.template.channel is Channel.EMAIL:
            return templates.fill(self.body, values, ListStyle.LINES)
        return sms.content(templates.fill(self.body, values, ListStyle.WORDS))

    def escaped_subject(self, values: Values) -> str | None:
        """Return the subject, escaped for HTML."""
        return templates.escaped(templates.subject(self.subject, values)) if self.subject else None


class TemplateCache:
    """The directory's templates, each parsed when it is first used."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._compiled: dict[str, CompiledTemplate] = {}

    def compiled(self, template: Template) -> CompiledTemplate:
        """Return a parsed version. At most one is kept for each version in the directory."""
        compiled = self._compiled.get(template.key)
        if compiled is None or compiled.template is not template:
            email = template.channel is Channel.EMAIL
            compiled = self._compiled[template.key] = CompiledTemplate(
                template,
                templates.parse(template.subject or "") if email else None,
                templates.parse(template.body),
            )
        return compiled


def storable(personalisation: Mapping[str, object]) -> Personalisation:
    """Return the values as types that a record can hold. They print the same."""
    return {
        name: [_scalar(entry) for entry in value] if isinstance(value, list) else _scalar(value)
        for name, value in personalisation.items()
        if not isinstance(value, dict)
    }


def _scalar(value: object) -> Scalar:
    if isinstance(value, int) and value not in INT64:
        return str(value)
    return value if isinstance(value, str | int | float) or value is None else str(value)
