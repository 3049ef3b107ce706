"""Writes the generated pages, or reports which are stale: `python -m courant_cli.docs --check`."""

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

MADE = "<!-- Generated from the code by `make docs`. Change the code, not this page. -->"
SERVICES: dict[str, type[settings.Settings]] = {
    "ingest": IngestSettings,
    "saver": SaverSettings,
    "deliverer": DelivererSettings,
    "job-runner": JobRunnerSettings,
    "recovery": RecoverySettings,
    "prepare": PrepareSettings,
}


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """Return a Markdown table; the first row is its head."""
    head, *rest = rows
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rest:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def lifecycle_page() -> Iterator[str]:
    yield from (MADE, "# The life of a notification", "")
    yield "After reading this page you know which moves change a notification's state, and which"
    yield from ("sweep continues it when nothing else does.", "", "```mermaid")
    yield lifecycle.diagram().rstrip()
    yield from ("```", "", "These moves are the only ways in which a row changes its state.", "")
    yield from table(
        ("move", "from", "to", "reported by", "SQL condition"),
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
    yield from ("", "## Sweeps: the next step for rows that stand still", "")
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
    yield from (MADE, "# Topics, tables and roles", "")
    yield "After reading this page you know what each topic holds and how long Kafka keeps it,"
    yield from ("which columns each table has, and what each service may do in PostgreSQL.", "")
    yield from table(
        (
            "family",
            "a record means",
            "topics",
            "partitions each by default",
            "retention",
            "dead-letter topic",
        ),
        *(
            (
                f"`{each.name}`",
                each.meaning,
                ", ".join(f"`{name}`" for name in each.names()),
                f"{each.partitions}, fixed" if each.fixed else str(each.partitions),
                "newest of each key" if each.compacted else f"{each.retention.days} days",
                f"`{topics.dead(each.name)}`" if each.consumed else "–",
            )
            for each in topics.FAMILIES
        ),
    )
    yield ""
    yield "`courant topics diff` compares a cluster with this table. `courant topics apply` makes"
    yield "the cluster match. On the cluster each name begins with `COURANT_TOPIC_PREFIX`."
    yield "`COURANT_PARTITIONS` sets other numbers of partitions, and `courant topics apply` adds"
    yield "the missing ones. All topics have `message.timestamp.type=LogAppendTime`, segments of a"
    yield "day or less, no `retention.bytes`, and never elect an unclean leader."
    yield from ("", "## Tables", "")
    yield from table(
        ("table", "columns"),
        *(
            (f"`{name}`", ", ".join(f"`{column.name}`" for column in each.columns))
            for name, each in sorted(tables.metadata.tables.items())
        ),
    )
    yield from (
        "",
        "## Roles",
        "",
        "The rights of each service's role. PostgreSQL rejects everything else.",
        "",
    )
    yield from table(
        ("role", "rights", "on"),
        *(
            (f"`{role}`", f"`{rights}`", f"`{what}`")
            for role, granted in grants.GRANTS.items()
            for what, rights in granted.items()
        ),
    )


def metrics_page() -> Iterator[str]:
    yield from (MADE, "# Metrics", "")
    yield "After reading this page you know what each metric means and where to look next. Every"
    yield from ("service serves its metrics at `/metrics` on its health port.", "")
    found = [
        each for each in vars(metrics).values() if isinstance(each, Counter | Gauge | Histogram)
    ]
    yield from table(
        ("metric", "labels", "meaning, and where to look next"),
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
    yield "After reading this page you can set every variable of each service. A default of – means"
    yield "that it has none or is empty. A secret may be in a file: set `<NAME>_FILE` to its path."
    yield "A service with a wrong value does not start, and reports every wrong variable."
    for service, kind in SERVICES.items():
        yield from ("", f"## {service}", "")
        yield from table(
            ("variable", "default", "value"),
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
    yield "# Generated from the code by `make docs`. A variable without a value is required,"
    yield "# or empty by default."
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
