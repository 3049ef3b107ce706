"""Postgres is restored to an earlier copy under load; no operator does anything else."""

import shutil
import time
from pathlib import Path

import pytest

from courant_local import postgres
from fault.site import Site

AGE_SECONDS = 30


def server(site: Site) -> postgres.Server:
    plan = site.stack.plan
    return postgres.Server(
        plan.home / "postgres",
        port=plan.port("postgres"),
        password=plan.secrets["postgres_password"],
        log=plan.log("postgres"),
    )


def holds(site: Site) -> list[tuple[object, ...]]:
    return site.stack.sql("SELECT reason, stands FROM holds WHERE scope = 'rebuild'")


@pytest.mark.parametrize("age_seconds", [20, 120])
def test_a_restored_postgres_catches_up_and_sends_nothing_twice(
    site: Site, age_seconds: int
) -> None:
    with site.load(50, age_seconds + 20) as result:
        time.sleep(5)
        copy = site.stack.plan.home / "postgres" / "copy"
        server(site).copy_to(copy)
        time.sleep(age_seconds)
        put_back(site, copy)
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()
    # The hold was raised, and recovery has lifted it.
    assert [stands for _, stands in holds(site)] == [False]


def test_an_empty_database_is_rebuilt_and_nothing_is_sent_twice(site: Site) -> None:
    with site.load(50, 30) as result:
        time.sleep(15)
        put_back(site, empty(site))
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()


def test_a_stack_started_on_an_earlier_copy_catches_up_and_sends_nothing_twice(site: Site) -> None:
    with site.load(50, AGE_SECONDS + 10) as result:
        time.sleep(5)
        copy = site.stack.plan.home / "postgres" / "copy"
        server(site).copy_to(copy)
    site.stack.courant("down")
    replace_files(site, copy)
    site.stack.courant("up", "--detach")
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()
    assert [stands for _, stands in holds(site)] == [False]


def put_back(site: Site, copy: Path) -> None:
    """Replace Postgres's data directory by `copy`, and let the supervisor restart Postgres."""
    replace_files(site, copy)
    site.kill("postgres")


def replace_files(site: Site, copy: Path) -> None:
    data = site.stack.plan.home / "postgres" / "data"
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


def empty(site: Site) -> Path:
    """Create the data directory of a PostgreSQL without tables, and return its path."""
    plan = site.stack.plan
    folder = plan.home.parent / "empty"
    with postgres.Server(folder, password=plan.secrets["postgres_password"]):
        pass
    return folder / "data"
