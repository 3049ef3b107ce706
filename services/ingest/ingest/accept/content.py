"""What a notification says, as the API shows it: the template's source with the values put in."""

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
    """A version of a template, taken apart once."""

    template: Template
    subject: Parsed | None
    body: Parsed

    @property
    def may_be_empty(self) -> bool:
        """Tell whether the body may be empty, as it is nothing but placeholders."""
        return not any(isinstance(part, str) and part.strip() for part in self.body.parts)

    def missing(self, values: Values) -> list[str]:
        """List the placeholders that have no value."""
        return templates.missing(self.subject, self.body, values)

    def text(self, values: Values) -> str:
        """Give the body: an email's source, or an SMS fit for telephones and without prefix."""
        if self.template.channel is Channel.EMAIL:
            return templates.fill(self.body, values, ListStyle.LINES)
        return sms.content(templates.fill(self.body, values, ListStyle.WORDS))

    def escaped_subject(self, values: Values) -> str | None:
        """Give the subject, fit for HTML."""
        return templates.escaped(templates.subject(self.subject, values)) if self.subject else None


class TemplateCache:
    """The directory's templates, taken apart when they are first used."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._compiled: dict[str, CompiledTemplate] = {}

    def compiled(self, template: Template) -> CompiledTemplate:
        """Give a version taken apart; at most one is kept of each that the directory holds."""
        found = self._compiled.get(template.key)
        if found is None or found.template is not template:
            email = template.channel is Channel.EMAIL
            found = self._compiled[template.key] = CompiledTemplate(
                template,
                templates.parse(template.subject or "") if email else None,
                templates.parse(template.body),
            )
        return found


def storable(personalisation: Mapping[str, object]) -> Personalisation:
    """Give the values in the forms that a record can hold, reading the same when they are shown."""
    return {
        name: [_scalar(each) for each in value] if isinstance(value, list) else _scalar(value)
        for name, value in personalisation.items()
        if not isinstance(value, dict)
    }


def _scalar(value: object) -> Scalar:
    if isinstance(value, int) and value not in INT64:
        return str(value)
    return value if isinstance(value, str | int | float) or value is None else str(value)
