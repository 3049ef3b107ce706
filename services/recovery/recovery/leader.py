"""The leader's lock: an advisory lock of Postgres, on the connection that the leader works on.

Faust names a leader, but a leader that was frozen believes for seconds that it still leads beside
its successor. Two processes cannot hold a session's lock, and the lock is gone with the connection.
So recovery needs a direct connection, not one of a pooler that changes servers by transaction.
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


class LeaderLock:
    """The lock and the connection that holds it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def take(self) -> PostgresStore | None:
        """Return the store to work on, or None if another process leads; raises Unavailable."""
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
            connection.close()  # it may hold the lock already
            raise
        if not locked:
            connection.close()
            return None
        self._connection = connection
        metrics.LEADS.set(1)
        log.info("became leader")
        return PostgresStore(connection)

    def resign(self) -> None:
        """Release the lock, so that another process can lead."""
        if self._connection is None:
            return
        # Closed and not returned to a pool, because the lock lives as long as the session.
        self._connection.invalidate()
        self._connection.close()
        self._connection = None
        metrics.LEADS.set(0)
        log.info("resigned as leader")
