"""Indexes by which every recurring statement looks only at the rows that it is for.

A partition's index is first built CONCURRENTLY, so that nothing waits while it is built. CREATE
INDEX on the whole table then finds the index of each partition and takes it over in a moment.
"""

from alembic import op
from sqlalchemy import Connection, create_engine

revision = "0005"
down_revision = "0004"

INDEXES = {
    "notifications_unclaimed": """(channel, lane, issued_at)
        WHERE state = 'created' AND coalesce(not_before <= issued_at, true)
            AND job_id IS NULL""",
    "notifications_of_jobs": """(channel, job_id, issued_at)
        WHERE state = 'created' AND coalesce(not_before <= issued_at, true)
            AND job_id IS NOT NULL""",
    "notifications_to_expire": """((coalesce(scheduled_for, accepted_at)), id)
        WHERE state = 'created'""",
}
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
# A row for each entry of an open call. A GIN index on their ids never gives a page back.
CALLS = """
LOCK TABLE calls IN ACCESS EXCLUSIVE MODE;

CREATE TEMPORARY TABLE open_calls ON COMMIT DROP AS
    SELECT c.id, e.notification, e.attempt, c.at
    FROM calls c, unnest(c.notifications, c.attempts) AS e (notification, attempt);

DROP TABLE calls;

CREATE TABLE calls (
    id UUID NOT NULL,
    notification UUID NOT NULL,
    attempt INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id, notification)
);

INSERT INTO calls SELECT * FROM open_calls ON CONFLICT DO NOTHING;

CREATE INDEX calls_by_notification ON calls (notification, attempt)
"""
REST = """
DROP INDEX notifications_waiting;

CREATE INDEX ix_jobs_upload_id ON jobs (upload_id)
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.exec_driver_sql(UNTOUCHED).scalar_one():
        build_beforehand(connection)
    for name, of in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON notifications {of}")
    op.execute(REST)
    op.execute(CALLS)


def build_beforehand(connection: Connection) -> None:
    """Build the indexes of every partition, without a lock that others wait for."""
    engine = create_engine(connection.engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as other:
        days = other.exec_driver_sql(DAYS).scalars().all()
        for day in days:
            for name, of in INDEXES.items():
                own = f"{day}_{name.removeprefix('notifications_')}"
                if other.exec_driver_sql(INVALID, {"name": own}).scalar():
                    other.exec_driver_sql(f"DROP INDEX CONCURRENTLY {own}")
                other.exec_driver_sql(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {own} ON {day} {of}"
                )
    engine.dispose()
