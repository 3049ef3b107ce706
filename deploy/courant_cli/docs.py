"""Writes the generated pages, or says which are stale: `python -m courant_cli.docs --check`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from courant import lifecycle, metrics, settings, topics
from courant.lifecycle import Move
from courant.postgres import grants, tables
from courant_local.home import PROJECT
from courant_local.prepare import PrepareSettings
from deliverer.settings import DelivererSettings
from ingest.settings import IngestSettings
from job_runner.settings import JobRunnerSettings
from recovery.settings import RecoverySettings
from recovery.tasks import TASKS
from saver.settings import SaverSettings

MADE = "<!-- Made by `make docs` from the code. Change it there. -->"
SERVICES: dict[str, type[settings.Settings]] = {
    "ingest": IngestSettings,
    "saver": SaverSettings,
    "deliverer": DelivererSettings,
    "job-runner": JobRunnerSettings,
    "recovery": RecoverySettings,
    "prepare": PrepareSettings,
}


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """Draw a Markdown table; the first row is its head."""
    head, *rest = rows
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rest:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def lifecycle_page() -> Iterator[str]:
    yield from (MADE, "# The life of a notification", "", "```mermaid")
    yield lifecycle.diagram().rstrip()
    yield from ("```", "", "Every way for a row to change its state; there is no other.", "")
    yield from table(
        ("move", "from", "to", "on whose word", "guard"),
        *(
            (
                f"`{move}`",
                ", ".join(sorted(map(str, move.before))) or "–",
                str(move.after),
                move.by,
                f"`{move.guard.sql}`",
            )
            for move in Move
        ),
    )
    yield from ("", "## What gives a row that stood still its next step", "")
    yield from table(
        ("sweep", "every", "rows at once", "what it does, and what proves that it may"),
        *(
            (
                f"`{task.name}`",
                f"{task.every.total_seconds():g} s",
                str(task.limit),
                " ".join((task.do.__doc__ or "").split()),
            )
            for task in TASKS
            if task.is_sweep
        ),
    )


def topics_page() -> Iterator[str]:
    yield from (MADE, "# Topics", "")
    yield from table(
        (
            "family",
            "a record means",
            "topics",
            "partitions each by default",
            "kept",
            "dead letters",
        ),
        *(
            (
                f"`{each.name}`",
                each.meaning,
                ", ".join(f"`{name}`" for name in each.names()),
                f"{each.partitions}, fixed" if each.fixed else str(each.partitions),
                "the last of each key" if each.compacted else f"{each.retention.days} days",
                f"`{topics.dead(each.name)}`" if each.consumed else "–",
            )
            for each in topics.FAMILIES
        ),
    )
    yield from ("", "All have `message.timestamp.type=LogAppendTime`, no `retention.bytes`,",
                "and never elect an unclean leader. `courant topics diff` compares a cluster.",
                "Each name begins with `COURANT_TOPIC_PREFIX` on the cluster. `COURANT_PARTITIONS`",
                "sets other numbers of partitions: `courant topics apply` adds what is missing.",
                "", "## Tables", "")  # fmt: skip
    yield from table(
        ("table", "columns"),
        *(
            (f"`{name}`", ", ".join(f"`{column.name}`" for column in each.columns))
            for name, each in sorted(tables.metadata.tables.items())
        ),
    )
    yield from ("", "## Roles", "", "What each service's role may do; all else is refused.", "")
    yield from table(
        ("role", "may", "on"),
        *(
            (f"`{role}`", rights, what)
            for role, granted in grants.GRANTS.items()
            for what, rights in granted.items()
        ),
    )


def metrics_page() -> Iterator[str]:
    yield from (MADE, "# Metrics", "", "Every process serves them at `/metrics`.", "")
    found = [
        each for each in vars(metrics).values() if isinstance(each, Counter | Gauge | Histogram)
    ]
    yield from table(
        ("metric", "labels", "what it says, and where to look next"),
        *(
            (
                f"`{each._name}{'_total' if isinstance(each, Counter) else ''}`",  # noqa: SLF001
                ", ".join(each._labelnames) or "–",  # noqa: SLF001
                each._documentation,  # noqa: SLF001
            )
            for each in found
        ),
    )


def settings_page() -> Iterator[str]:
    yield from (MADE, "# Settings", "")
    yield "Environment variables. A secret may also stand in a file that `<NAME>_FILE` names."
    yield "A wrong value stops the start, and is named."
    for service, kind in SERVICES.items():
        yield from ("", f"## {service}", "")
        yield from table(
            ("variable", "default", "wants"),
            *(
                (f"`{name}`", f"`{default}`" if default else "–", wants)
                for name, default, wants in settings.declared(kind)
            ),
        )
    yield from ("", "## Renamed", "")
    yield "A service that reads the new name does not start while the old one is set."
    yield ""
    names = ((f"`{old}`", f"`{new}`") for old, new in settings.RENAMED.items())
    yield from table(("old name", "new name"), *names)


def example_env() -> Iterator[str]:
    yield "# Made by `make docs` from the code. What has no value must be given."
    told: set[str] = set()
    for service, kind in SERVICES.items():
        yield from ("", f"# {service}")
        for name, default, wants in settings.declared(kind):
            if name not in told:
                told.add(name)
                yield from (f"# {wants}", f"{name}={default}")


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "docs/lifecycle.md": lifecycle_page,
    "docs/topics.md": topics_page,
    "docs/metrics.md": metrics_page,
    "docs/settings.md": settings_page,
    ".env.example": example_env,
}


def main(check: bool) -> int:
    stale = []
    for name, page in PAGES.items():
        file = Path(PROJECT / name)
        text = "\n".join(page()) + "\n"
        if check and (not file.exists() or file.read_text() != text):
            stale.append(name)
        elif not check:
            file.write_text(text)
    if stale:
        print(f"stale, `make docs` writes them: {', '.join(stale)}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
