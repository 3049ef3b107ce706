"""Each service's role has exactly the expected rights, as read from PostgreSQL's catalogue.

The expected rights are written out here and not taken from courant.postgres.grants, which is what
these tests check.
"""

from collections.abc import Mapping

import pytest

from courant.postgres import grants, migrate
from courant.postgres.grants import RoleMissing
from courant_local.postgres import Server
from support.roles import DELIVERER, INGEST, JOB_RUNNER, RECOVERY, ROLES, SAVER, TODAY, ask, server

__all__ = ["server"]

RIGHTS = {
    (INGEST, "aliases"): "SELECT",
    (INGEST, "alembic_version"): "SELECT",
    (INGEST, "chunks"): "SELECT",
    (INGEST, "idempotency"): "SELECT",
    (INGEST, "jobs"): "SELECT",
    (INGEST, "marks"): "SELECT",
    (INGEST, "notifications"): "SELECT",
    (INGEST, "positions"): "SELECT",
    (INGEST, "wishes"): "SELECT",
    (SAVER, "aliases"): "INSERT SELECT",
    (SAVER, "calls"): "DELETE INSERT SELECT",
    (SAVER, "events"): "INSERT SELECT",
    (SAVER, "holds"): "INSERT SELECT",
    (SAVER, "idempotency"): "INSERT SELECT",
    (SAVER, "aside"): "DELETE INSERT SELECT",
    (SAVER, "marks"): "DELETE SELECT",
    (SAVER, "notifications"): "INSERT SELECT",
    (SAVER, "positions"): "INSERT SELECT",
    (SAVER, "receipts_waiting"): "INSERT",
    (SAVER, "refolds"): "SELECT",
    (SAVER, "servers"): "INSERT",
    (DELIVERER, "events"): "INSERT",
    (DELIVERER, "holds"): "INSERT SELECT",
    (DELIVERER, "marks"): "DELETE",
    (DELIVERER, "notifications"): "SELECT",
    (DELIVERER, "servers"): "INSERT SELECT",
    (DELIVERER, "wishes"): "SELECT",
    (JOB_RUNNER, "aliases"): "DELETE INSERT SELECT",
    (JOB_RUNNER, "chunks"): "INSERT SELECT",
    (JOB_RUNNER, "holds"): "INSERT SELECT",
    (JOB_RUNNER, "idempotency"): "INSERT SELECT",
    (JOB_RUNNER, "jobs"): "DELETE INSERT SELECT",
    (JOB_RUNNER, "marks"): "DELETE",
    (JOB_RUNNER, "notifications"): "SELECT",
    (JOB_RUNNER, "positions"): "INSERT SELECT",
    (JOB_RUNNER, "servers"): "INSERT",
    (JOB_RUNNER, "wishes"): "INSERT SELECT",
    (RECOVERY, "aliases"): "DELETE SELECT",
    (RECOVERY, "calls"): "DELETE SELECT",
    (RECOVERY, "chunks"): "DELETE SELECT",
    (RECOVERY, "directory"): "INSERT SELECT",
    (RECOVERY, "holds"): "INSERT SELECT",
    (RECOVERY, "idempotency"): "DELETE SELECT",
    (RECOVERY, "jobs"): "DELETE SELECT",
    (RECOVERY, "aside"): "SELECT",
    (RECOVERY, "marks"): "DELETE INSERT SELECT",
    (RECOVERY, "notifications"): "SELECT",
    (RECOVERY, "positions"): "SELECT",
    (RECOVERY, "receipts_waiting"): "DELETE SELECT",
    (RECOVERY, "servers"): "INSERT",
    (RECOVERY, "wishes"): "DELETE SELECT",
}
"""Rights on whole tables, each list in alphabetical order."""
HOLD = "raised_at reason stands"
KEYS = "accepted_at body_hash earlier id last_at"
UPDATED = {
    (SAVER, "aliases"): "winner",
    (SAVER, "holds"): HOLD,
    (SAVER, "notifications"): "attempt lease_until message_id not_before reason receipt_at "
    "response sent_at state state_at tries",
    (SAVER, "idempotency"): KEYS,
    (SAVER, "positions"): "at next topic",
    (DELIVERER, "holds"): HOLD,
    (DELIVERER, "notifications"): "attempt lease_until state state_at",
    (JOB_RUNNER, "aliases"): "winner",
    (JOB_RUNNER, "chunks"): "issued_at orders saved_at settled_at",
    (JOB_RUNNER, "holds"): HOLD,
    (JOB_RUNNER, "idempotency"): KEYS,
    (JOB_RUNNER, "jobs"): "finished_at started_at",
    (JOB_RUNNER, "positions"): "at next topic",
    (JOB_RUNNER, "wishes"): "at wish wished_at",
    (RECOVERY, "aliases"): "at",
    (RECOVERY, "calls"): "at",
    (RECOVERY, "chunks"): "at issued_at orders saved_at",
    (RECOVERY, "directory"): "number value",
    (RECOVERY, "holds"): HOLD,
    (RECOVERY, "idempotency"): "accepted_at",
    (RECOVERY, "jobs"): "at name",
    (RECOVERY, "notifications"): "issued_at recipient_hash reference response sealed",
    (RECOVERY, "receipts_waiting"): "try_at",
    (RECOVERY, "wishes"): "at",
}
"""The columns that a role may UPDATE."""
REST = {
    (INGEST, "database"): "CONNECT",
    (SAVER, "database"): "CONNECT TEMPORARY",
    (SAVER, "courant_give_way"): "EXECUTE",
    (SAVER, "courant_make_day"): "EXECUTE",
    (DELIVERER, "database"): "CONNECT",
    (JOB_RUNNER, "database"): "CONNECT",
    (RECOVERY, "database"): "CONNECT",
    (RECOVERY, "courant_drop_day"): "EXECUTE",
    (RECOVERY, "courant_make_day"): "EXECUTE",
    (RECOVERY, "directory_number"): "UPDATE",
}
TABLE_RIGHTS = """
    SELECT r.rolname, c.relname, string_agg(p, ' ' ORDER BY p)
    FROM pg_roles r, pg_class c, unnest(%s) p
    WHERE r.rolname = ANY(%s) AND c.relnamespace = 'public'::regnamespace
        AND c.relkind IN ('r', 'p') AND has_table_privilege(r.oid, c.oid, p) GROUP BY 1, 2"""
TABLE_KINDS = ["SELECT", "INSERT", "UPDATE", "DELETE"]
TABLE_KINDS += ["TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"]
# Rights on single columns. SELECT and INSERT are granted on whole tables only.
COLUMN_RIGHTS = """
    SELECT r.rolname, c.relname, string_agg(a.attname, ' ' ORDER BY a.attname)
    FROM pg_roles r, pg_class c, pg_attribute a
    WHERE r.rolname = ANY(%s) AND c.relnamespace = 'public'::regnamespace
        AND c.relkind IN ('r', 'p') AND a.attrelid = c.oid AND a.attnum > 0
        AND (has_column_privilege(r.oid, c.oid, a.attnum, 'UPDATE')
            OR has_column_privilege(r.oid, c.oid, a.attnum, 'REFERENCES')
            OR EXISTS (SELECT FROM aclexplode(a.attacl) x
                WHERE x.grantee = r.oid AND x.privilege_type <> 'UPDATE'))
    GROUP BY 1, 2"""
OTHER_RIGHTS = """
    SELECT rolname, what, string_agg(p, ' ' ORDER BY p) FROM (
        SELECT r.rolname, 'database' AS what, p
        FROM pg_roles r, unnest('{CREATE,CONNECT,TEMPORARY}'::text[]) p
        WHERE has_database_privilege(r.oid, current_database(), p)
        UNION ALL SELECT r.rolname, 'schema', 'CREATE' FROM pg_roles r
        WHERE has_schema_privilege(r.oid, 'public', 'CREATE')
        UNION ALL SELECT r.rolname, f.proname, 'EXECUTE' FROM pg_roles r, pg_proc f
        WHERE f.pronamespace = 'public'::regnamespace
            AND has_function_privilege(r.oid, f.oid, 'EXECUTE')
        UNION ALL SELECT r.rolname, s.relname, p
        FROM pg_roles r, pg_class s, unnest('{USAGE,SELECT,UPDATE}'::text[]) p
        WHERE s.relkind = 'S' AND s.relnamespace = 'public'::regnamespace
            AND has_sequence_privilege(r.oid, s.oid, p)
        UNION ALL SELECT r.rolname, 'role ' || o.rolname, 'MEMBER' FROM pg_roles r, pg_roles o
        WHERE r.oid <> o.oid AND pg_has_role(r.oid, o.oid, 'MEMBER')) found
    WHERE rolname = ANY(%s) GROUP BY 1, 2"""
STRONG = """
    SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)
    AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"""


def rights_in(server: Server, query: str, *values: object) -> dict[tuple[str, str], str]:
    return {(role, what): rights for role, what, rights in ask(server.url, query, *values)}


def wrong(server: Server) -> list[str]:
    """Return the kinds of rights that differ from the expected ones."""
    rights: Mapping[str, tuple[object, object]] = {
        "tables": (rights_in(server, TABLE_RIGHTS, TABLE_KINDS, [*ROLES]), RIGHTS),
        "columns": (rights_in(server, COLUMN_RIGHTS, [*ROLES]), UPDATED),
        "rest": (rights_in(server, OTHER_RIGHTS, [*ROLES]), REST),
        "strong": (ask(server.url, STRONG, [*ROLES]), []),
    }
    return [kind for kind, (actual, expected) in rights.items() if actual != expected]


def test_each_role_has_exactly_the_expected_rights(server: Server) -> None:
    assert rights_in(server, TABLE_RIGHTS, TABLE_KINDS, [*ROLES]) == RIGHTS
    assert rights_in(server, COLUMN_RIGHTS, [*ROLES]) == UPDATED
    assert rights_in(server, OTHER_RIGHTS, [*ROLES]) == REST
    assert ask(server.url, STRONG, [*ROLES]) == []


def test_an_upgrade_reverts_rights_that_were_changed_by_hand(server: Server) -> None:
    changes = (
        f"GRANT ALL ON notifications, notifications_{TODAY} TO {DELIVERER}",
        f"GRANT SELECT (value), UPDATE (value) ON directory TO {INGEST}",
        "GRANT CREATE, TEMPORARY ON DATABASE courant TO PUBLIC",
        f"GRANT EXECUTE ON FUNCTION courant_drop_day TO {INGEST}, PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        f"GRANT USAGE ON SEQUENCE directory_number TO {SAVER}",
        f"REVOKE SELECT ON notifications FROM {INGEST}",
    )
    for statement in changes:
        ask(server.url, statement)
        assert wrong(server), statement
        migrate.upgrade(server.url)
        assert wrong(server) == [], statement


@pytest.mark.parametrize(
    ("role", "what", "rights", "seen"),
    [
        (INGEST, "events", "SELECT", "tables"),
        (INGEST, "notifications", "SELECT, INSERT", "tables"),
        (SAVER, "directory", "SELECT", "tables"),
        (SAVER, "events", "SELECT, INSERT, DELETE", "tables"),
        (SAVER, "positions", "SELECT, INSERT, UPDATE (next, topic_id)", "columns"),
        (DELIVERER, "notifications", "SELECT, UPDATE, DELETE", "tables"),
        (DELIVERER, "FUNCTION courant_make_day(text, int)", "EXECUTE", "rest"),
        (RECOVERY, "notifications", "SELECT, UPDATE (issued_at), TRUNCATE", "tables"),
        (RECOVERY, "SEQUENCE directory_number", "USAGE, UPDATE", "rest"),
        (RECOVERY, "directory", "SELECT, INSERT", "columns"),
        (SAVER, "servers", "SELECT, INSERT (id)", "columns"),
    ],
)
def test_a_mistake_in_the_grants_is_detected(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    what: str,
    rights: str,
    seen: str,
) -> None:
    other = {**grants.GRANTS[role], what: rights}
    with monkeypatch.context() as patch:
        patch.setitem(grants.GRANTS, role, other)  # type: ignore[arg-type]  # a Mapping to others
        migrate.upgrade(server.url)
        assert seen in wrong(server)
    migrate.upgrade(server.url)
    assert wrong(server) == []


def test_an_upgrade_without_a_role_names_it_and_changes_nothing(server: Server) -> None:
    ask(server.admin_url, "ALTER ROLE courant_deliverer RENAME TO away")
    try:
        with pytest.raises(RoleMissing, match=r"no role courant_deliverer: .* CREATE ROLE"):
            migrate.upgrade(server.url)
    finally:
        ask(server.admin_url, "ALTER ROLE away RENAME TO courant_deliverer")
    assert wrong(server) == []
