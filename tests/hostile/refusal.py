"""A refusal as the API says it."""

import re
from dataclasses import dataclass

OTHER = ""
"""The name of the error in the shape that has none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status, the error's name, a text."""

    status: int
    error: str
    text: str

    def fits(self, status: int, error: str, text: str) -> bool:
        return (status, error) == (self.status, self.error) and bool(
            re.fullmatch(re.escape(self.text).replace(r"\{\}", ".*"), text, re.DOTALL)
        )


def of(status: int, error: str, *texts: str) -> tuple[Refusal, ...]:
    return tuple(Refusal(status, error, each) for each in texts)
