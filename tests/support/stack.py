"""The whole product on this machine, started by `courant up`, for the tests that need it.

A session has one stack, in a temporary home and on its own ports.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from notifications_python_client.notifications import NotificationsAPIClient

from courant_cli.installation import Installation, variables
from courant_local import control, home, ports, processes
from courant_local.plan import Plan

START_SECONDS = 300.0
SHIFTS = range(2_000, 22_000, 100)
"""Added to all ports: the sums lie above the defaults and below the system's ephemeral ports."""
LOG_SHOWN = 1_500  # characters of each log


class Stack:
    """A running stack."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self._env = folder, env
        self.plan = Plan.from_json(home.read(folder / "stack.json")["plan"])
        self.variables = variables(self.plan)
        self.url = self.plan.url

    @cached_property
    def installation(self) -> Installation:
        """Return what the commands work with: Kafka, Postgres, the keys."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COURANT_HOME", str(self.folder))
            return Installation()

    def courant(self, *words: str) -> str:
        """Run a command and return its output."""
        return command(self._env, *words)

    def client(self, key: str = "COURANT_API_KEY", url: str = "") -> NotificationsAPIClient:
        """Return the unmodified client, with one of the demo service's keys."""
        return NotificationsAPIClient(self.variables[key], base_url=url or self.url)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in Postgres and return its rows."""
        connection = psycopg2.connect(self.plan.database_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def state(self, id: UUID | str) -> str:
        """Return a notification's state, or an empty text if it has no row."""
        rows = self.sql("SELECT state FROM notifications WHERE id = %s", str(id))
        return str(rows[0][0]) if rows else ""

    def sendings(self) -> list[str]:
        """Return the ids of the notifications that the provider booked, one for each booking."""
        return [str(booking["notification_id"]) for booking in self.ledger()]

    def ledger(self) -> list[dict[str, Any]]:
        """Return the provider's bookings, one for each line of its ledger."""
        return [json.loads(line) for line in self.plan.ledger.read_text().splitlines()]

    def pid(self, name: str) -> int:
        """Return the process id of one part of the stack."""
        pids = {part["name"]: part["pid"] for part in control.status(self.folder)}
        return int(pids[name])


def command(env: dict[str, str], *words: str) -> str:
    """Run `courant` and return its output."""
    return output_of([sys.executable, "-m", "courant_cli.main", *words], env)


def output_of(words: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a command in the project's folder and return its output; the command must succeed."""
    completed = subprocess.run(
        words,
        cwd=home.PROJECT,
        env=env,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert completed.returncode == 0, f"{words}: {completed.stdout}\n{completed.stderr}"
    return completed.stdout


def free_shift() -> int:
    """Return a shift with which every port of the stack is free."""
    for shift in random.sample(SHIFTS, len(SHIFTS)):
        if not any(ports.answers(port + shift) for port in ports.DEFAULTS.values()):
            return shift
    raise AssertionError("no free ports")


@contextmanager
def running(*words: str, prepare: Callable[[Path], None] = lambda _: None) -> Iterator[Stack]:
    """Start a stack with these further arguments of `courant up`, and stop it afterwards.

    `prepare` is called with the stack's home before anything starts.
    """
    with tempfile.TemporaryDirectory(prefix="courant-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as nobody where the tests run as root
        stack_home = Path(folder) / "home"
        env = {
            **os.environ,
            "COURANT_HOME": str(stack_home),
            "COURANT_PORT_SHIFT": str(free_shift()),
        }
        prepare(stack_home)
        command(env, "up", "--detach", *words)
        try:
            yield Stack(stack_home, env)
        finally:
            command(env, "down")
            kinds = {service.kind for service in processes.SERVICES}
            for log in sorted((stack_home / "log").glob("*-*.log")):
                if log.stem.rpartition("-")[0] not in kinds:
                    continue
                # pytest shows this only for a test that fails.
                print(f"--- {log.name}", log.read_text()[-LOG_SHOWN:], sep="\n")  # noqa: T201


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield the session's stack."""
    with running() as started:
        yield started
