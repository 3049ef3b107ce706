"""Alembic's connection to the database: one transaction for all migrations and the grants."""

from alembic import context
from sqlalchemy import create_engine, text

from courant.postgres import grants
from courant.postgres.tables import metadata

url = context.config.get_main_option("sqlalchemy.url")
assert url
# While a session waits for a lock on a table, every other session waits behind it. So it gives up
# soon, and `migrate.upgrade` tries again.
engine = create_engine(
    url,
    connect_args={
        "connect_timeout": 10,
        "application_name": context.config.get_main_option("application_name"),
        "options": "-c lock_timeout=2s",
    },
)
with engine.begin() as connection:
    # Replicas that start together run their upgrades one after the other.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('courant.migrations'))"))
    context.configure(connection=connection, target_metadata=metadata)
    context.run_migrations()
    # The grants are those of the newest tables: an upgrade to an older revision lacks some.
    if context.get_revision_argument() == context.get_head_revision():
        grants.apply(connection)
engine.dispose()
