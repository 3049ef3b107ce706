"""Bringing a database to the current schema: `courant db upgrade`. The steps are Alembic's."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.engine import make_url

from courant.database import RECOGNISE

MIGRATIONS = Path(__file__).with_name("migrations")


def engine_url(url: str) -> str:
    """Name the driver that SQLAlchemy is to use for a postgresql:// URL."""
    return make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)


def upgrade(url: str) -> bool:
    """Run every step that the database has not had; tell whether it had none before."""
    engine = create_engine(engine_url(url))
    new = not inspect(engine).has_table("alembic_version")
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", engine_url(url).replace("%", "%%"))
    command.upgrade(config, "head")
    return new


def know(engine: Engine) -> None:
    """Write down which server this is, so that no hold is raised for its being new.

    For a schema that was made anew while every topic was empty, and for no other: a Postgres that
    is empty because it lost everything must raise the hold.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(RECOGNISE)
