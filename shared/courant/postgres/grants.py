"""Who may do what in PostgreSQL: a role for each service, and no more than its SQL needs.

What is not listed here is refused. Every upgrade of the schema applies the whole table, as the
owner of the database; the roles themselves are made where the database is made, with a password
each. Rights on a partition come through its table: nobody has any on a partition itself.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from courant.postgres.days import FUNCTIONS, LOCK, SIGNATURES

MAKES_DAYS, DROPS_DAYS = (f"FUNCTION {each}" for each in SIGNATURES)

# Whoever folds, claims or marks tells a server that it has not seen, and raises the hold
# (courant.postgres.database.recognise): two inserts, and all marks deleted.
RECOGNISES = {
    "servers": "INSERT",
    "holds": "SELECT, INSERT, UPDATE (reason, raised_at, stands)",
}
# SELECT … FOR UPDATE wants UPDATE of some column. Recovery so takes what it is about to delete.
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
        "lease_until, sent_at, message_id, reason, response)",
        "events": "INSERT",
        "calls": "SELECT, INSERT, DELETE",
        "positions": "SELECT, INSERT, UPDATE (next)",
        "marks": "SELECT, DELETE",
        "idempotency, aliases": "SELECT, INSERT",
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
        "jobs": "SELECT, INSERT, UPDATE (started_at, finished_at)",
        "wishes": "SELECT, INSERT, UPDATE (wish, wished_at, at)",
        "positions": "SELECT, INSERT, UPDATE (next)",
        "marks": "DELETE",
        "idempotency, aliases": "SELECT, INSERT",
    },
    "courant_recovery": {
        **RECOGNISES,
        "notifications": "SELECT, UPDATE (issued_at)",
        "calls, idempotency, aliases": TAKES,
        "chunks": f"{TAKES}, UPDATE (issued_at, orders, saved_at)",
        "jobs, wishes": TAKES,
        "positions": "SELECT",
        "marks": "SELECT, INSERT, DELETE",
        "directory": "SELECT, INSERT, UPDATE (number, value)",
        "SEQUENCE directory_number": "UPDATE",
        MAKES_DAYS: "EXECUTE",
        DROPS_DAYS: "EXECUTE",
    },
}
"""By role, and by what it is about."""
COPIES = ("courant_saver",)
"""Those that COPY into a temporary table first."""

PRESENT = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
NAME = text("SELECT quote_ident(current_database())")


class RoleMissing(Exception):
    """The server lacks a role that a service connects as."""


def apply(connection: Connection) -> None:
    """Make the days' functions, and each role's rights exactly what stands here.

    Belongs into the transaction that makes the tables, as the owner: nobody sees one without its
    grants. Raises RoleMissing, naming all that are.
    """
    present = connection.execute(PRESENT, {"names": list(GRANTS)}).scalars().all()
    if missing := [role for role in GRANTS if role not in present]:
        raise RoleMissing(
            f"the server has no role {', '.join(missing)}: whoever made the database makes them, "
            "CREATE ROLE … LOGIN PASSWORD …, one for each service "
            "(docs/how-to/run-in-production.md)"
        )
    connection.execute(text(LOCK))  # a partition that is dropped meanwhile would be missed
    connection.execute(text(FUNCTIONS))
    database = f"DATABASE {connection.execute(NAME).scalar_one()}"
    for statement in statements(database):
        connection.execute(text(statement))


def statements(database: str) -> list[str]:
    """Write what takes every right away, and gives those that are wanted."""
    roles = ", ".join(GRANTS)
    everything = [f"ALL {kind} IN SCHEMA public" for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")]
    return [
        f"REVOKE ALL ON {database} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        *(f"REVOKE ALL ON {each} FROM {roles}" for each in (database, *everything)),
        f"GRANT CONNECT ON {database} TO {roles}",
        f"GRANT TEMPORARY ON {database} TO {', '.join(COPIES)}",
        *(
            f"GRANT {rights} ON {what} TO {role}"
            for role, granted in GRANTS.items()
            for what, rights in granted.items()
        ),
    ]
