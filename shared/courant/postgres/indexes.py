"""Builds indexes on `notifications` in a live system.

A partition's index is first built CONCURRENTLY, so that nothing waits while it is built. CREATE
INDEX on the whole table then finds the index of each partition and takes it over in a moment.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, create_engine

DAYS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'notifications'::regclass"
)
# An earlier migration in this transaction may have locked or made the table. No other connection
# could then build an index on it.
UNTOUCHED = """
    SELECT NOT EXISTS (SELECT FROM pg_locks
        WHERE pid = pg_backend_pid() AND relation = 'notifications'::regclass)"""
# A build that was interrupted leaves an index that is not valid.
INVALID = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)"


def build_beforehand(connection: Connection, indexes: Mapping[str, str]) -> None:
    """Build the indexes of every partition, without a lock that others wait for.

    `indexes` has for each name `notifications_…` what follows ON in CREATE INDEX. Does nothing if
    this transaction has locked the table.
    """
    if not connection.exec_driver_sql(UNTOUCHED).scalar_one():
        return
    engine = create_engine(connection.engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as other:
        days = other.exec_driver_sql(DAYS).scalars().all()
        for day in days:
            for name, of in indexes.items():
                own = f"{day}_{name.removeprefix('notifications_')}"
                if other.exec_driver_sql(INVALID, {"name": own}).scalar():
                    other.exec_driver_sql(f"DROP INDEX CONCURRENTLY {own}")
                other.exec_driver_sql(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {own} ON {day} {of}"
                )
    engine.dispose()
