"""The services connect with their own roles; PostgreSQL allows their work and refuses the rest."""

import os
import subprocess
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors
from sqlalchemy import create_engine

from courant import ids
from courant.errors import Unavailable
from courant.postgres import migrate
from courant.testing.builders import notification
from courant_local.home import PROJECT
from courant_local.ports import HOST
from courant_local.postgres import PROGRAMS, Server
from saver.store import PostgresStore
from support.roles import DELIVERER, INGEST, JOB_RUNNER, RECOVERY, ROLES, SAVER, TODAY, ask, server
from support.stack import Stack
from support.waiting import in_time, wait

__all__ = ["server"]

CONNECTED = """
    SELECT DISTINCT application_name, usename FROM pg_stat_activity
    WHERE datname = 'courant' AND usename <> 'courant'"""


def test_each_service_connects_with_its_role_and_is_refused_nothing(stack: Stack) -> None:
    expected = {
        ("courant-ingest", INGEST),
        ("courant-saver", SAVER),
        ("courant-deliverer", DELIVERER),
        ("courant-job-runner", JOB_RUNNER),
        ("courant-recovery", RECOVERY),
    }
    stack.courant("send", "email", "amal@example.com")
    stack.client().get_all_notifications()
    wait(lambda: set(stack.sql(CONNECTED)) == expected, "all five are connected")
    assert "permission denied" not in stack.plan.log("postgres").read_text()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE redrives",
        f"DROP TABLE notifications_{TODAY}",
        "DROP FUNCTION courant_make_day",
        "TRUNCATE marks",
        "CREATE TABLE mine (n int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE notifications DISABLE TRIGGER ALL",
        f"ALTER TABLE notifications DETACH PARTITION notifications_{TODAY}",
        f"SELECT FROM notifications_{TODAY}",
        f"DELETE FROM events_{TODAY}",
        "DELETE FROM notifications",
        "DELETE FROM events",
        "UPDATE notifications SET accepted_at = now()",
        "UPDATE servers SET id = ''",
        "DELETE FROM directory",
        "DELETE FROM positions",
        "SELECT FROM redrives",
        "SET ROLE courant",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY marks TO PROGRAM 'cat'",
    ],
)
def test_no_service_role_may_run(server: Server, role: str, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        ask(server.url_of(role), statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (INGEST, "INSERT INTO aliases VALUES (gen_random_uuid(), gen_random_uuid())"),
        (INGEST, "SELECT FROM notifications FOR UPDATE"),
        (INGEST, "SELECT FROM directory"),
        (INGEST, "CREATE TEMPORARY TABLE mine (n int)"),
        (INGEST, f"SELECT courant_make_day('events', {TODAY})"),
        (SAVER, "SELECT value FROM directory"),
        (SAVER, "SELECT nextval('directory_number')"),
        (SAVER, f"SELECT courant_drop_day('events', {TODAY - 100})"),
        (SAVER, "INSERT INTO marks SELECT FROM marks"),
        (DELIVERER, "INSERT INTO notifications (id) VALUES (gen_random_uuid())"),
        (SAVER, "UPDATE notifications SET sealed = ''"),
        (DELIVERER, "UPDATE notifications SET reason = ''"),
        (DELIVERER, "UPDATE notifications SET sealed = ''"),
        (DELIVERER, "DELETE FROM calls"),
        (DELIVERER, "SELECT value FROM directory"),
        (JOB_RUNNER, "INSERT INTO notifications (id) VALUES (gen_random_uuid())"),
        (JOB_RUNNER, "UPDATE jobs SET rows = 0"),
        (JOB_RUNNER, "UPDATE chunks SET sealed = ''"),
        (JOB_RUNNER, "DELETE FROM wishes"),
        (RECOVERY, "UPDATE jobs SET finished_at = now()"),
        (RECOVERY, "UPDATE notifications SET state = 'created'"),
        (RECOVERY, "INSERT INTO events (id, move, attempt) VALUES (gen_random_uuid(), '', 0)"),
        (RECOVERY, "CREATE TEMPORARY TABLE mine (n int)"),
    ],
)
def test_a_role_may_not_do_the_work_of_another(server: Server, role: str, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        ask(server.url_of(role), statement)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_can_read_the_identity_of_the_server(server: Server, role: str) -> None:
    asked = """SELECT system_identifier, pg_walfile_name(pg_current_wal_lsn()),
        pg_postmaster_start_time() FROM pg_control_system()"""
    assert ask(server.url_of(role), asked)[0][0] > 0


@pytest.mark.parametrize(
    "call",
    [
        f"courant_make_day('positions', {TODAY})",
        f"courant_make_day('events_{TODAY}', 1)",
        f"courant_make_day('marks; DROP TABLE marks', {TODAY})",
        "courant_drop_day('marks', 1)",
        f"courant_drop_day('notifications', {TODAY})",
        f"courant_drop_day('events', {TODAY - 17})",
    ],
)
def test_days_of_other_tables_and_days_that_are_kept_cannot_be_made_or_dropped(
    server: Server, call: str
) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        ask(server.url_of(RECOVERY), f"SELECT {call}")
    assert ask(server.url, "SELECT to_regclass(%s)", f"notifications_{TODAY}") != [(None,)]


def test_a_day_holds_exactly_its_own_ids(server: Server) -> None:
    day = TODAY - 40
    recovery = server.url_of(RECOVERY)
    assert ask(recovery, "SELECT courant_make_day('events', %s)", day) == [(True,)]
    assert ask(recovery, "SELECT courant_make_day('events', %s)", day) == [(False,)]
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s"
    first, after = (str(ids.first_of(each)) for each in (day, day + 1))
    expected = f"FOR VALUES FROM ('{first}') TO ('{after}')"
    assert ask(server.url, bounds, f"events_{day}") == [(expected,)]
    ask(recovery, "SELECT courant_drop_day('events', %s)", day)
    assert ask(server.url, bounds, f"events_{day}") == []


@pytest.mark.parametrize(
    ("call", "lock", "most"),
    [
        (f"courant_make_day('events', {TODAY + 1})", "SHARE ROW EXCLUSIVE", 3.0),
        # Every later statement on the table waits behind this lock request.
        (f"courant_drop_day('events', {TODAY - 41})", "ACCESS SHARE", 0.5),
    ],
)
def test_making_or_dropping_a_day_gives_up_soon_if_the_table_is_locked(
    server: Server, call: str, lock: str, most: float
) -> None:
    ask(server.url, "SELECT courant_make_day('events', %s)", TODAY - 41)
    with closing(psycopg2.connect(server.url)) as other, other.cursor() as cursor:
        cursor.execute(f"LOCK TABLE ONLY events IN {lock} MODE")

        def refused() -> None:
            with pytest.raises(errors.LockNotAvailable):
                ask(server.url_of(RECOVERY), f"SELECT {call}")

        in_time(most, refused)


def test_a_callers_own_tables_and_types_do_not_shadow_those_of_a_function(server: Server) -> None:
    saver = server.url_of(SAVER)
    shadows = """
        CREATE TEMPORARY TABLE events (id uuid);
        CREATE DOMAIN pg_temp.uuid AS text CHECK (false);
        SET search_path = pg_temp, pg_catalog, public;
        SELECT courant_make_day('events', %s)"""
    assert ask(saver, shadows, TODAY - 1) == [(True,)]
    assert ask(server.url, "SELECT to_regclass(%s)", f"public.events_{TODAY - 1}") != [(None,)]


def test_a_missing_right_is_unavailable_and_dead_letters_no_record(server: Server) -> None:
    engine = create_engine(migrate.engine_url(server.url_of(SAVER)))
    store = PostgresStore(engine, timedelta(seconds=30))
    ask(server.url, f"REVOKE INSERT ON events FROM {SAVER}")
    try:
        with pytest.raises(Unavailable, match="42501"), store.fold({}) as fold:
            fold.save([notification(1)])
    finally:
        migrate.upgrade(server.url)
        engine.dispose()


def test_the_containers_script_creates_the_database_and_roles_for_an_upgrade(
    tmp_path: Path,
) -> None:
    names = ("DATABASE", "INGEST", "SAVER", "DELIVERER", "JOB_RUNNER", "RECOVERY")
    passwords = {f"COURANT_{name}_PASSWORD": f"of {name}" for name in names}
    with Server() as server:
        admin = server.admin_url.removesuffix("/courant") + "/postgres"
        ask_alone(admin, "DROP DATABASE courant")
        for role in ("courant", *ROLES):
            ask_alone(admin, f"DROP ROLE {role}")
        where = {"PGHOST": HOST, "PGPORT": str(server.port), "PGPASSWORD": "courant"}
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        for _ in range(2):  # The script is safe to run again.
            subprocess.run(
                ["bash", PROJECT / "deploy/containers/database.sh"],
                env={**passwords, **where, "PATH": path},
                cwd=tmp_path,
                check=True,
            )
        migrate.upgrade(server.url.replace("courant:courant@", "courant:of%20DATABASE@"))
        for name, role in zip(names[1:], ROLES, strict=True):
            url = server.url.replace("courant:courant@", f"{role}:of%20{name}@")
            assert ask(url, "SELECT current_user::text") == [(role,)]


def ask_alone(url: str, statement: str) -> None:
    """Run a statement that cannot be part of a transaction."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
