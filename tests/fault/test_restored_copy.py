"""Postgres is restored to an earlier copy under load; no operator does anything else."""

import shutil
import time
from pathlib import Path

import pytest

from courant_local import postgres
from fault.harness import Harness

AGE_SECONDS = 30


def server(harness: Harness) -> postgres.Server:
    plan = harness.stack.plan
    return postgres.Server(
        plan.home / "postgres",
        port=plan.port("postgres"),
        password=plan.secrets["postgres_password"],
        log=plan.log("postgres"),
    )


def holds(harness: Harness) -> list[tuple[object, ...]]:
    return harness.stack.sql("SELECT reason, stands FROM holds WHERE scope = 'rebuild'")


@pytest.mark.parametrize("age_seconds", [20, 120])
def test_a_restored_postgres_catches_up_and_sends_nothing_twice(
    harness: Harness, age_seconds: int
) -> None:
    with harness.load(50, age_seconds + 20) as result:
        time.sleep(5)
        copy = harness.stack.plan.home / "postgres" / "copy"
        server(harness).copy_to(copy)
        time.sleep(age_seconds)
        restore(harness, copy)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    # The hold was raised, and recovery has lifted it.
    assert [stands for _, stands in holds(harness)] == [False]


def test_an_empty_database_is_rebuilt_and_nothing_is_sent_twice(harness: Harness) -> None:
    with harness.load(50, 30) as result:
        time.sleep(15)
        restore(harness, empty(harness))
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()


def test_a_stack_started_on_an_earlier_copy_catches_up_and_sends_nothing_twice(
    harness: Harness,
) -> None:
    with harness.load(50, AGE_SECONDS + 10) as result:
        time.sleep(5)
        copy = harness.stack.plan.home / "postgres" / "copy"
        server(harness).copy_to(copy)
    harness.stack.courant("down")
    replace_files(harness, copy)
    harness.stack.courant("up", "--detach")
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert [stands for _, stands in holds(harness)] == [False]


def restore(harness: Harness, copy: Path) -> None:
    """Replace Postgres's data directory by `copy`, and let the supervisor restart Postgres."""
    replace_files(harness, copy)
    harness.kill("postgres")


def replace_files(harness: Harness, copy: Path) -> None:
    data = harness.stack.plan.home / "postgres" / "data"
    before = data.with_name("before")
    # Postgres still runs here. The supervisor may restart it at any time, and must then find the
    # copy instead of the old files.
    data.rename(before)
    shutil.copytree(copy, data, symlinks=True)
    for path in (data, *data.rglob("*")):
        shutil.chown(path, before.owner(), before.group())
    data.chmod(0o700)
    # Whoever restores a backup keeps the settings of the running server.
    shutil.copy2(before / "postgresql.conf", data / "postgresql.conf")
    (data / "postmaster.pid").unlink(missing_ok=True)


def empty(harness: Harness) -> Path:
    """Create the data directory of a PostgreSQL without tables, and return its path."""
    plan = harness.stack.plan
    folder = plan.home.parent / "empty"
    with postgres.Server(folder, password=plan.secrets["postgres_password"]):
        pass
    return folder / "data"
