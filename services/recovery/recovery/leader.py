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

LOCK = "SELECT pg_try_advisory_lock(hashtext(%(name)s))"
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


class SessionLock:
    """A lock by its name, and the connection that holds it. One thread takes and resigns it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._connection: Connection | None = None

    @property
    def is_held(self) -> bool:
        """Report whether this process has the lock, as far as it knows; any thread may ask."""
        return self._connection is not None

    def take(self) -> PostgresStore | None:
        """Return the store to work on, or None if another has the lock; raises Unavailable."""
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
                [(locked,)] = connection.exec_driver_sql(LOCK, {"name": self._name})
        except BaseException:
            connection.close()  # it may hold the lock already
            raise
        if not locked:
            connection.close()
            return None
        self._connection = connection
        self.changed(held=True)
        return PostgresStore(connection)

    def resign(self) -> None:
        """Release the lock, so that another process can have it."""
        if self._connection is None:
            return
        # Closed and not returned to a pool, because the lock lives as long as the session.
        self._connection.invalidate()
        self._connection.close()
        self._connection = None
        self.changed(held=False)

    def changed(self, *, held: bool) -> None:
        """Do nothing; called when this process has taken or released the lock."""


class LeaderLock(SessionLock):
    """The lock of the one process that sweeps."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "courant.recovery")

    def changed(self, *, held: bool) -> None:
        """Show and log who leads."""
        metrics.LEADS.set(held)
        log.info("became leader" if held else "resigned as leader")


class MarksLock(SessionLock):
    """The lock of the one process that takes marks.

    Two at once would each see marks that are later than their own time, and raise the hold because
    the clock seems to have gone back.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "courant.recovery.marks")
