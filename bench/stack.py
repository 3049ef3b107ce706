"""The stack for a measurement: Kafka, PostgreSQL and a directory, deleted afterwards."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from courant.directory import publish
from courant.directory.entries import Template
from courant.topics import Channel, Lane
from courant_cli import demo, entries
from courant_cli.installation import Installation, known
from courant_local import home, plan, ports, processes
from courant_local.child import Child, wait_ready
from courant_local.plan import Plan
from courant_local.postgres import ADMIN
from courant_local.processes import SANDBOX, SERVICES, Part

READY_SECONDS = 90.0
PORT_SHIFT = "700"
SETTINGS = {
    # Signing receipts is the sandbox's work, and not the product's.
    "SANDBOX_RECEIPTS_SHARE": "0",
    # The defaults. The local stack's few seconds run out on a busy machine.
    "COURANT_LEASE_SECONDS": "30",
    "COURANT_MARGIN_SECONDS": "5",
}
SUBJECT = "Your application"
PLAIN = """Dear applicant,

Your application has been received. We look at it within **ten days**, and write to you as soon as
it is decided.

- Please do not answer this message.
- Your documents are kept for two years.
"""
PERSONAL = PLAIN.replace("applicant", "((name))")


class BenchStack:
    """Kafka and PostgreSQL, with topics and tables, a service, its API key and two templates."""

    def __init__(self, wanted: Plan, processes: dict[str, psutil.Process]) -> None:
        self.plan, self.processes = wanted, processes
        self.installation = Installation()
        seeded = demo.seed(self.installation)
        self.key = seeded["COURANT_API_KEY"]
        [self.service] = publish.load(self.installation.engine).services.values()
        self.personal, self.plain = self._template(PERSONAL), self._template(PLAIN)
        self.urgent = self._template(PERSONAL, Lane.PRIORITY)
        self.directory = publish.load(self.installation.engine)

    @contextmanager
    def running(self, *kinds: str, **settings: str) -> Iterator[dict[str, psutil.Process]]:
        """Run the sandbox or services during the block, with these additional settings."""
        known = {each.kind: each for each in (SANDBOX, *SERVICES)}
        parts = [processes.service(self.plan, known[kind], 1) for kind in kinds]
        for part in parts:
            part.child.env = {**part.child.env, **SETTINGS, **settings}
        with started(parts) as found:
            yield found

    @contextmanager
    def serving(self, module: str, *arguments: str) -> Iterator[tuple[int, psutil.Process]]:
        """Run one of the bench's own servers during the block; yield its port and process."""
        port = ports.free()
        command = (sys.executable, "-m", module, *arguments, str(port))
        child = Child(module, command, self.plan.log(module), cwd=home.PROJECT)
        child.start()
        try:
            wait_ready(module, lambda: ports.answers(port), child, READY_SECONDS)
            yield port, psutil.Process(child.pid)
        finally:
            child.stop()

    def _template(self, body: str, lane: Lane = Lane.NORMAL) -> Template:
        made = entries.new_template(self.service.id, Channel.EMAIL, "Bench", SUBJECT, body, lane)
        entries.put_entry(self.installation, made)
        return made

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Query Postgres."""
        return ask(self.plan.database_url, "courant", statement, *values)

    def empty(self) -> None:
        """Delete all rows and make a checkpoint, so that no later round pays for these writes."""
        self.sql("TRUNCATE notifications, events, calls")
        ask(self.plan.database_url, ADMIN, "CHECKPOINT")


def ask(url: str, user: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Query Postgres as this user."""
    with closing(psycopg2.connect(url, user=user)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def bench_stack() -> Iterator[BenchStack]:
    """Create the stack, and delete everything afterwards."""
    with tempfile.TemporaryDirectory(prefix="courant-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as nobody where the bench runs as root
        os.environ[ports.SHIFT] = PORT_SHIFT
        wanted = plan.make(Path(folder) / "home")
        os.environ |= known(wanted)
        with started([*processes.brokers(wanted), processes.database(wanted)]) as found:
            preparation = processes.preparation(wanted)
            preparation.start()
            preparation.wait(READY_SECONDS)
            assert preparation.ended() == 0, preparation.said()
            yield BenchStack(wanted, found)


@contextmanager
def started(parts: Sequence[Part]) -> Iterator[dict[str, psutil.Process]]:
    """Start the parts and stop them in reverse order; yield their processes by kind."""
    with ExitStack() as stack:
        for part in parts:
            for kind, port in part.listens.items():
                ports.demand(kind, port)
            part.start()
            stack.callback(part.child.stop)
        for part in parts:
            wait_ready(part.name, part.ready, part.child, READY_SECONDS)
        yield {part.kind: psutil.Process(part.child.pid) for part in parts}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and its children, including ended ones."""
    own = process.cpu_times()
    spent: float = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a backend of Postgres that has just ended
            times = child.cpu_times()
            spent += times.user + times.system
    return spent
