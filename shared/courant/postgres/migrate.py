"""Upgrades of a database to the current schema, with Alembic: `courant db upgrade`."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from courant.errors import TooSlow, Unavailable
from courant.kafka import offsets
from courant.kafka.clients import Admin
from courant.postgres import blockers
from courant.postgres.blockers import Blocker
from courant.postgres.database import RECOGNISE, classified_errors, kind_of
from courant.topics import declared

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).with_name("migrations")
APPLICATION = "courant-migrations"
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between two tries; the last one again and again. In between everybody else has the tables."""
PATIENCE_SECONDS = 3600.0
LOOK_SECONDS = 0.2


def engine_url(url: str) -> str:
    """Return a postgresql:// URL that names the driver for SQLAlchemy."""
    return make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)


def upgrade(url: str, tell: Callable[[str], None] = log.warning) -> bool:
    """Run every migration that the database lacks; return whether it had none before.

    Applies the grants in any case. If another session has a table locked, it gives up after 2 s and
    tries again, and tells for which session it waits. Raises RoleMissing; Unavailable after an
    hour.
    """
    engine = create_engine(engine_url(url))
    with classified_errors():
        new = not inspect(engine).has_table("alembic_version")
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", engine_url(url).replace("%", "%%"))
    config.set_main_option("application_name", APPLICATION)
    began, tries = time.monotonic(), 0
    while True:
        with watching(url) as seen:
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                # Any other error is a migration's own fault: its traceback names the statement.
                if not isinstance(error.orig, psycopg2.Error) or kind_of(error.orig) is not TooSlow:
                    raise
                sessions = "; ".join(map(str, seen)) or "a session that has ended"
            else:
                return new
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise Unavailable(f"the schema is locked by {sessions}")
        seconds = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
        tell(f"The schema is locked by {sessions}. Trying again in {seconds:g} s.")
        time.sleep(seconds)
        tries += 1


@contextmanager
def watching(url: str) -> Iterator[list[Blocker]]:
    """Yield a list that always has the sessions for which the migration waits, or last waited."""
    seen: list[Blocker] = []
    done = threading.Event()

    def look() -> None:
        with closing(psycopg2.connect(url, connect_timeout=10)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not done.wait(LOOK_SECONDS):
                    seen[:] = blockers.of_application(cursor, APPLICATION) or seen

    def guarded() -> None:
        try:
            look()
        except psycopg2.Error:
            log.debug("the sessions in the way are not known", exc_info=True)

    thread = threading.Thread(target=guarded, name="blockers", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def prepare(url: str, admin: Admin, tell: Callable[[str], None] = log.warning) -> None:
    """Upgrade; a new schema needs no hold if every topic is empty.

    If the topics are not empty, Postgres is new because it lost everything, and the hold must be
    raised. Raises Unavailable, RoleMissing.
    """
    if not upgrade(url, tell):
        return
    ends = offsets.ends(admin, offsets.partitions(admin, [topic.name for topic in declared()]))
    if not any(ends.values()):
        engine = create_engine(engine_url(url))
        with engine.begin() as connection:
            connection.exec_driver_sql(RECOGNISE)
        engine.dispose()
