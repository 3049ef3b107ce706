"""Postgres put back to an earlier copy, under load, and nothing else done."""

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
def test_it_catches_up_by_itself_and_sends_nothing_twice(site: Site, age_seconds: int) -> None:
    with site.load(50, age_seconds + 20) as result:
        time.sleep(5)
        copy = site.stack.plan.home / "postgres" / "copy"
        server(site).copy_to(copy)
        time.sleep(age_seconds)
        put_back(site, copy)
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()
    assert [stands for _, stands in holds(site)] == [False]  # raised, and lifted by itself


def test_an_empty_database_is_filled_again(site: Site) -> None:
    with site.load(50, 30) as result:
        time.sleep(15)
        put_back(site, empty(site))
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()


def test_a_stack_that_was_down_meanwhile_comes_up_on_the_copy(site: Site) -> None:
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
    """Put other files in the place of Postgres's, and let the supervisor start it again."""
    replace_files(site, copy)
    site.kill("postgres")


def replace_files(site: Site, copy: Path) -> None:
    place = site.stack.plan.home / "postgres" / "data"
    before = place.with_name("before")
    # Moved while it runs, so that the supervisor finds the other files whenever it starts it.
    place.rename(before)
    shutil.copytree(copy, place, symlinks=True)
    for each in (place, *place.rglob("*")):
        shutil.chown(each, before.owner(), before.group())
    place.chmod(0o700)
    # Its settings are the stack's, as whoever restores a backup sees to.
    shutil.copy2(before / "postgresql.conf", place / "postgresql.conf")
    (place / "postmaster.pid").unlink(missing_ok=True)


def empty(site: Site) -> Path:
    """Make the files of a PostgreSQL in which nothing was ever written."""
    plan = site.stack.plan
    folder = plan.home.parent / "empty"
    with postgres.Server(folder, password=plan.secrets["postgres_password"]):
        pass
    return folder / "data"
