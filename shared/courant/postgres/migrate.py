"""Upgrades of a database to the current schema, with Alembic: `courant db upgrade`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url

from courant.kafka import offsets
from courant.kafka.clients import Admin
from courant.postgres.database import RECOGNISE
from courant.topics import declared

MIGRATIONS = Path(__file__).with_name("migrations")


def engine_url(url: str) -> str:
    """Return a postgresql:// URL that names the driver for SQLAlchemy."""
    return make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)


def upgrade(url: str) -> bool:
    """Run every migration that the database lacks; return whether it had none before.

    Applies the grants in any case. Raises RoleMissing.
    """
    engine = create_engine(engine_url(url))
    new = not inspect(engine).has_table("alembic_version")
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", engine_url(url).replace("%", "%%"))
    command.upgrade(config, "head")
    return new


def prepare(url: str, admin: Admin) -> None:
    """Upgrade; a new schema needs no hold if every topic is empty.

    If the topics are not empty, Postgres is new because it lost everything, and the hold must be
    raised. Raises Unavailable, RoleMissing.
    """
    if not upgrade(url):
        return
    ends = offsets.ends(admin, offsets.partitions(admin, [topic.name for topic in declared()]))
    if not any(ends.values()):
        engine = create_engine(engine_url(url))
        with engine.begin() as connection:
            connection.exec_driver_sql(RECOGNISE)
        engine.dispose()
