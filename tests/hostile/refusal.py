"""The form of a refusal in the API's answers."""

import re
from dataclasses import dataclass

OTHER = ""
"""Stands for the error's name in answers whose shape has no name."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status, an error's name, and its text, in which `{}` stands for any text."""

    status: int
    error: str
    text: str

    def fits(self, status: int, error: str, text: str) -> bool:
        return (status, error) == (self.status, self.error) and bool(
            re.fullmatch(re.escape(self.text).replace(r"\{\}", ".*"), text, re.DOTALL)
        )


def of(status: int, error: str, *texts: str) -> tuple[Refusal, ...]:
    return tuple(Refusal(status, error, text) for text in texts)
