"""Who sweeps: the one process that holds a lock of Postgres's, on the connection it works on.

Faust says who should lead, but one that was frozen believes it for seconds beside its successor.
A lock that lives in a session cannot be held by two, and is gone with the connection. So this
needs connections that are its own: not a pooler's that are given out by transaction.
"""

import logging

from sqlalchemy import Connection, Engine

from courant import metrics
from courant.errors import Unavailable
from courant.postgres import database
from courant.postgres.database import classified_errors
from recovery.store import PostgresStore

log = logging.getLogger(__name__)

LOCK = "SELECT pg_try_advisory_lock(hashtext('courant.recovery'))"
# A leader asks every second. A leader that is frozen, or whose machine is gone, must not keep the
# lock, so the server ends its session.
SESSION = {
    "idle_session_timeout": "25s",
    "idle_in_transaction_session_timeout": "25s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def connect(url: str) -> Engine:
    """Return an engine whose every connection is new, and whose sessions end soon when idle."""
    return database.engine(url, "recovery", connections=None, session=SESSION)


class Lead:
    """The lock and the connection that holds it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def take(self) -> PostgresStore | None:
        """Give the store to work on if no other process leads; raises Unavailable."""
        try:
            with classified_errors():
                if self._connection is None:
                    return self._begin()
                store = PostgresStore(self._connection)
                with store.transaction() as cursor:
                    cursor.execute("SELECT")
        except Unavailable:
            self.resign()
            raise
        return store

    def _begin(self) -> PostgresStore | None:
        connection = self._engine.connect()
        try:
            with connection.begin():
                [(locked,)] = connection.exec_driver_sql(LOCK)
        except BaseException:
            connection.close()  # the lock may be held already
            raise
        if not locked:
            connection.close()
            return None
        self._connection = connection
        metrics.LEADS.set(1)
        log.info("leads")
        return PostgresStore(connection)

    def resign(self) -> None:
        """Let another lead."""
        if self._connection is None:
            return
        # Not given back but closed: the lock lives as long as the session.
        self._connection.invalidate()
        self._connection.close()
        self._connection = None
        metrics.LEADS.set(0)
        log.info("leads no more")
