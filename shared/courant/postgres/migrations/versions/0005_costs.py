"""Indexes by which every recurring statement looks only at the rows that it is for."""

from alembic import op

from courant.postgres.indexes import build_beforehand

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
    build_beforehand(op.get_bind(), INDEXES)
    for name, of in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON notifications {of}")
    op.execute(REST)
    op.execute(CALLS)
