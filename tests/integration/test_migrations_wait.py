"""A migration beside a dump: it gives up soon, says for whom it waits, and stops nobody else."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from alembic.script import ScriptDirectory

from courant.errors import Unavailable
from courant.postgres import migrate
from courant_local.postgres import Server
from support.waiting import BUSY_SECONDS, wait

SLOWEST_SECONDS = 3.0 + BUSY_SECONDS / 5


NEXT = """
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("ALTER TABLE notifications ADD COLUMN later integer")
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that lacks one migration, which changes a table that everybody uses."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, folder)
    head = ScriptDirectory(str(folder)).get_current_head()
    with Server() as server:
        migrate.upgrade(server.url)
        (folder / "versions" / "next.py").write_text(NEXT.format(head=head))
        monkeypatch.setattr(migrate, "MIGRATIONS", folder)
        yield server


def test_beside_a_dump_everybody_else_goes_on(old: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "RETRY_SECONDS", (0.5,))
    told: list[str] = []
    slowest, stop = [0.0], threading.Event()

    def others() -> None:
        with closing(psycopg2.connect(old.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop.wait(0.05):
                began = time.monotonic()
                cursor.execute("SELECT count(*) FROM notifications")
                slowest[0] = max(slowest[0], time.monotonic() - began)

    upgrading = threading.Thread(target=lambda: migrate.upgrade(old.url, told.append))
    working = threading.Thread(target=others)
    with closing(psycopg2.connect(old.url, application_name="pg_dump")) as dump:
        dump.cursor().execute("LOCK TABLE notifications IN ACCESS SHARE MODE")
        working.start()
        upgrading.start()
        wait(lambda: len(told) >= 2, "it gave up twice")
    upgrading.join()
    stop.set()
    working.join()
    assert "pid " in told[0]
    assert "'pg_dump'" in told[0]
    assert slowest[0] < SLOWEST_SECONDS
    with closing(psycopg2.connect(old.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT later FROM notifications")


def test_it_gives_up_after_its_patience(old: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 0.0)
    with closing(psycopg2.connect(old.url, application_name="forgotten")) as connection:
        connection.cursor().execute("LOCK TABLE notifications IN ACCESS SHARE MODE")
        with pytest.raises(Unavailable, match="forgotten"):
            migrate.upgrade(old.url)
