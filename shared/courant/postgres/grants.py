"""The rights of each service's role in PostgreSQL: no more than its SQL needs.

A right that is not listed here is refused. Every upgrade of the schema applies the whole table, as
the owner of the database. The roles themselves, with a password each, are created together with the
database. Rights on a partition come through its table: no role has any on a partition itself.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from courant.postgres.days import FUNCTIONS, LOCK, SIGNATURES
from courant.postgres.keys import GIVE_WAY, GIVE_WAY_SIGNATURE

MAKES_DAYS, DROPS_DAYS = (f"FUNCTION {signature}" for signature in SIGNATURES)

# A service that folds, claims or marks must recognise a server that was not seen before and raise
# the hold (courant.postgres.database.hold_after_restart): two inserts, and all marks deleted.
RECOGNISES = {
    "servers": "INSERT",
    "holds": "SELECT, INSERT, UPDATE (reason, raised_at, stands)",
}
# A service that judges Idempotency-Keys (courant.postgres.keys).
JUDGES = {
    "idempotency": "SELECT, INSERT, UPDATE (id, body_hash, accepted_at, last_at, earlier)",
    "aliases": "SELECT, INSERT, UPDATE (winner)",
}
# Recovery locks the rows that it is about to delete. SELECT … FOR UPDATE needs the right to update
# some column.
TAKES = "SELECT, UPDATE (at), DELETE"

GRANTS: Mapping[str, Mapping[str, str]] = {
    "courant_ingest": {
        "notifications, aliases, idempotency": "SELECT",
        "jobs, chunks, wishes": "SELECT",
        "marks, positions, alembic_version": "SELECT",
    },
    "courant_saver": {
        **RECOGNISES,
        "notifications": "SELECT, INSERT, UPDATE (state, state_at, attempt, tries, not_before, "
        "lease_until, sent_at, message_id, reason, response, receipt_at)",
        "events": "SELECT, INSERT",
        "receipts_waiting": "INSERT",
        "refolds": "SELECT",
        "calls": "SELECT, INSERT, DELETE",
        "positions": "SELECT, INSERT, UPDATE (next, at, topic)",
        "marks": "SELECT, DELETE",
        "aside": "SELECT, INSERT, DELETE",
        **JUDGES,
        f"FUNCTION {GIVE_WAY_SIGNATURE}": "EXECUTE",
        MAKES_DAYS: "EXECUTE",
    },
    "courant_deliverer": {
        **RECOGNISES,
        "servers": "SELECT, INSERT",
        "notifications": "SELECT, UPDATE (state, state_at, attempt, lease_until)",
        "wishes": "SELECT",
        "events": "INSERT",
        "marks": "DELETE",
    },
    "courant_job_runner": {
        **RECOGNISES,
        "notifications": "SELECT",
        "chunks": "SELECT, INSERT, UPDATE (issued_at, orders, saved_at, settled_at)",
        "jobs": "SELECT, INSERT, DELETE, UPDATE (started_at, finished_at)",
        "wishes": "SELECT, INSERT, UPDATE (wish, wished_at, at)",
        "positions": "SELECT, INSERT, UPDATE (next, at, topic)",
        "marks": "DELETE",
        **JUDGES,
        "aliases": f"{JUDGES['aliases']}, DELETE",
    },
    "courant_recovery": {
        **RECOGNISES,
        "notifications": "SELECT, UPDATE (issued_at, sealed, reference, recipient_hash, response)",
        "calls, aliases": TAKES,
        "idempotency": "SELECT, UPDATE (accepted_at), DELETE",
        "chunks": f"{TAKES}, UPDATE (issued_at, orders, saved_at)",
        "jobs": f"{TAKES}, UPDATE (name)",
        "wishes": TAKES,
        "positions, aside": "SELECT",
        "receipts_waiting": "SELECT, UPDATE (try_at), DELETE",
        "marks": "SELECT, INSERT, DELETE",
        "directory": "SELECT, INSERT, UPDATE (number, value)",
        "SEQUENCE directory_number": "UPDATE",
        MAKES_DAYS: "EXECUTE",
        DROPS_DAYS: "EXECUTE",
    },
}
"""The rights by role, and by the object to which they apply."""
COPIES = ("courant_saver",)
"""Roles that COPY into a temporary table first."""

PRESENT = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
NAME = text("SELECT quote_ident(current_database())")


class RoleMissing(Exception):
    """The server lacks a role that a service connects as."""


def apply(connection: Connection) -> None:
    """Create the functions of `days` and `keys`. Make each role's rights exactly those in GRANTS.

    Call this in the transaction that makes the tables, as the owner, so that no table is visible
    without its grants. Raises RoleMissing, which names every missing role.
    """
    present = connection.execute(PRESENT, {"names": list(GRANTS)}).scalars().all()
    if missing := [role for role in GRANTS if role not in present]:
        raise RoleMissing(
            f"the server has no role {', '.join(missing)}: create one for each service, with the "
            "account that created the database: CREATE ROLE … LOGIN PASSWORD … "
            "(docs/how-to/run-in-production.md)"
        )
    # Without the lock, REVOKE fails on a partition that is dropped meanwhile.
    connection.execute(text(LOCK))
    connection.execute(text(FUNCTIONS))
    connection.execute(text(GIVE_WAY))
    database = f"DATABASE {connection.execute(NAME).scalar_one()}"
    for statement in statements(database):
        connection.execute(text(statement))


def statements(database: str) -> list[str]:
    """Return the statements that revoke every right and then grant those in GRANTS."""
    roles = ", ".join(GRANTS)
    everything = [f"ALL {kind} IN SCHEMA public" for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")]
    return [
        f"REVOKE ALL ON {database} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        *(f"REVOKE ALL ON {objects} FROM {roles}" for objects in (database, *everything)),
        f"GRANT CONNECT ON {database} TO {roles}",
        f"GRANT TEMPORARY ON {database} TO {', '.join(COPIES)}",
        *(
            f"GRANT {rights} ON {objects} TO {role}"
            for role, granted in GRANTS.items()
            for objects, rights in granted.items()
        ),
    ]
