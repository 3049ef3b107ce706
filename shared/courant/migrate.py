"""Bringing a database to the current schema: `courant db upgrade`. The steps are Alembic's."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url

MIGRATIONS = Path(__file__).with_name("migrations")


def engine_url(url: str) -> str:
    """Name the driver that SQLAlchemy is to use for a postgresql:// URL."""
    return make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)


def upgrade(url: str) -> None:
    """Run every step that the database has not had."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", engine_url(url).replace("%", "%%"))
    command.upgrade(config, "head")
