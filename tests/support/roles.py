"""A PostgreSQL server with the schema and its grants, and connections to it as any role."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine

from courant import ids
from courant.postgres import migrate
from courant_local.postgres import Server

INGEST, SAVER = "courant_ingest", "courant_saver"
DELIVERER, JOB_RUNNER, RECOVERY = "courant_deliverer", "courant_job_runner", "courant_recovery"
ROLES = (INGEST, SAVER, DELIVERER, JOB_RUNNER, RECOVERY)
TODAY = ids.day_at(datetime.now(UTC))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        migrate.upgrade(started.url)
        for table in ("notifications", "events"):
            ask(started.url, "SELECT courant_make_day(%s, %s)", table, TODAY)
        yield started


def ask(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


@cache
def acting(engine: Engine, role: str) -> Engine:
    """Return an engine that connects to the same server as this role, without a password."""
    return create_engine(engine.url.set(username=role))
