"""The results of a part, beside its ceiling."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

ROUNDS = 5
console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the table. Figures are medians of the rounds; `more` is for latest.json only."""

    name: str
    unit: str
    aim: str
    ours: float
    ceiling: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Return our figure divided by the ceiling."""
        return None if self.ceiling is None else round(self.ours / self.ceiling, 2)

    def summary(self) -> dict[str, Any]:
        """Return the fields for latest.json."""
        figures = {"ours": self.ours, "ceiling": self.ceiling, "unit": self.unit}
        return {**figures, "ratio": self.ratio, "aim": self.aim, **self.more}


def interleaved(sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure the sides in turn, round after round, so that a disturbance hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name, measure in sides.items():
            found[name].append(measure())
        now = ", ".join(f"{name} {rounds[-1]:,.1f}" for name, rounds in found.items())
        console.print(f"  round {number + 1}: {now}")
    return found


def beside(
    name: str, unit: str, aim: str, ours: list[float], ceiling: list[float], **more: Any
) -> Measurement:
    """Return the result of a part and its ceiling over all rounds."""
    ratios = [round(one / most, 2) for one, most in zip(ours, ceiling, strict=True)]
    return Measurement(name, unit, aim, middle(ours), middle(ceiling), {"ratios": ratios, **more})


def middle(rounds: list[float], digits: int | None = None) -> float:
    """Return the median."""
    return round(statistics.median(rounds), digits)
