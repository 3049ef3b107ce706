"""Which sessions stand in the way: those that hold a lock for which others wait."""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from psycopg2 import extensions

from courant.postgres.database import array


class Blocker(NamedTuple):
    """A session that holds a lock. PostgreSQL shows its name and time only to some roles."""

    pid: int
    user: str | None
    application: str | None
    since: str | None

    def __str__(self) -> str:
        known = filter(None, (self.application and repr(self.application), self.user))
        words = [f"pid {self.pid}", *known]
        return ", ".join([*words, f"since {self.since}"] if self.since else words)


COLUMNS = """a.pid, a.usename, nullif(a.application_name, ''),
    to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')"""
# A lock of a row is not in pg_locks but in the row: as the transaction that has it.
OF_ROWS = f"""
    SELECT DISTINCT {COLUMNS} FROM notifications n
    JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = n.xmax
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE n.id = ANY(%s::uuid[]) AND a.pid <> pg_backend_pid()"""  # noqa: S608  # words of ours
OF_APPLICATION = f"""
    SELECT DISTINCT {COLUMNS} FROM pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) AS b(pid)
    JOIN pg_stat_activity a ON a.pid = b.pid
    WHERE w.application_name = %s AND w.datname = current_database()"""  # noqa: S608  # words of ours


def of_rows(cursor: extensions.cursor, ids: Iterable[UUID]) -> list[Blocker]:
    """Return the sessions that have locked any of these notifications."""
    cursor.execute(OF_ROWS, [array(ids)])
    return [Blocker(*row) for row in cursor]


def of_application(cursor: extensions.cursor, name: str) -> list[Blocker]:
    """Return the sessions for which the sessions of this application wait."""
    cursor.execute(OF_APPLICATION, [name])
    return [Blocker(*row) for row in cursor]
