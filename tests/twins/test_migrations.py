"""The migrations make exactly the declared tables, including constraints and indexes."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text

from courant.postgres import migrate
from courant.postgres.days import FUNCTIONS, MAKE_DAY
from courant.postgres.tables import metadata

# The catalogue's entries of a schema, each as text that can be compared.
CATALOGUE = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        a.attidentity::text || a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
        AND NOT c.relispartition
    UNION ALL
    SELECT 'index', c.relname, i.relname, pg_get_indexdef(x.indexrelid), true, '', ''
    FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
    UNION ALL
    SELECT 'constraint', c.relname, n.conname, pg_get_constraintdef(n.oid), true, '', ''
    FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
    UNION ALL
    SELECT 'kind', c.relname, c.relkind::text, pg_get_partkeydef(c.oid), true, '', ''
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
        AND c.relkind IN ('r', 'p', 'S')"""


@pytest.fixture
def declared(engine: Engine) -> Iterator[Engine]:
    """The same server, with the declared tables in a separate database."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS declared")
        connection.exec_driver_sql("CREATE DATABASE declared")
    declared = create_engine(engine.url.set(database="declared"))
    metadata.create_all(declared)
    yield declared
    declared.dispose()


def catalogue(engine: Engine) -> set[tuple[object, ...]]:
    with engine.connect() as connection:
        entries = connection.execute(text(CATALOGUE))
        return {tuple(entry) for entry in entries if entry[1] != "alembic_version"}


def test_the_migrations_make_the_declared_tables(engine: Engine, declared: Engine) -> None:
    assert len(catalogue(declared)) > 100
    assert catalogue(engine) == catalogue(declared)


def test_a_column_that_no_migration_makes_is_detected(engine: Engine, declared: Engine) -> None:
    with declared.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN more int")
    assert catalogue(engine) != catalogue(declared)


CALLS = [UUID(int=1), UUID(int=2)]


@contextmanager
def at_version(engine: Engine, version: str) -> Iterator[Engine]:
    """Make a database of an earlier version, with two days."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS older")
        connection.exec_driver_sql("CREATE DATABASE older")
    older = create_engine(engine.url.set(database="older"))
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    config.set_main_option("sqlalchemy.url", older.url.render_as_string(False))
    command.upgrade(config, version)
    with older.begin() as connection:
        connection.execute(text(FUNCTIONS))
        for day in (20_000, 20_001):
            connection.exec_driver_sql(MAKE_DAY, {"daily": "notifications", "day": day})
    yield older
    older.dispose()


@pytest.fixture
def older(engine: Engine) -> Iterator[Engine]:
    """A database before calls had a row for each entry, with two days and two calls."""
    with at_version(engine, "0003") as older:
        with older.begin() as connection:
            for call in CALLS:
                values = {"id": call, "rows": CALLS}
                connection.exec_driver_sql(
                    "INSERT INTO calls VALUES (%(id)s, %(rows)s, ARRAY[3, 4], '2026-01-01Z')",
                    values,
                )
        yield older


def test_an_upgrade_keeps_open_calls_and_builds_indexes_before_it_locks(older: Engine) -> None:
    url = older.url.set(drivername="postgresql").render_as_string(False)
    migrate.upgrade(url)
    with older.begin() as connection:
        entries = connection.execute(
            text("SELECT id, notification, attempt FROM calls ORDER BY 1, 2")
        )
        assert [tuple(entry) for entry in entries] == [
            (call, row, attempt)
            for call in CALLS
            for row, attempt in zip(CALLS, (3, 4), strict=True)
        ]
    assert indexes_of_days(older, "notifications_to_expire") == [
        "notifications_20000_to_expire",
        "notifications_20001_to_expire",
    ]


def indexes_of_days(engine: Engine, name: str) -> list[str]:
    """Return the names of an index in each day: those that CREATE INDEX CONCURRENTLY was given."""
    names = text("""SELECT i.relname FROM pg_inherits JOIN pg_class i ON i.oid = inhrelid
        WHERE inhparent = to_regclass(:name) ORDER BY 1""")
    with engine.begin() as connection:
        return [*connection.execute(names, {"name": name}).scalars()]


def test_the_index_of_lists_is_replaced_without_a_long_lock(engine: Engine) -> None:
    with at_version(engine, "0009") as older:
        migrate.upgrade(older.url.set(drivername="postgresql").render_as_string(False))
        assert indexes_of_days(older, "notifications_by_service") == [
            "notifications_20000_by_service",
            "notifications_20001_by_service",
        ]
