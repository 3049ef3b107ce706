"""Judge receipts by the time of their event, and find their rows by the provider's id."""

from alembic import op

revision = "0008"
down_revision = "0007"

# Neither column has a default, so that no row is rewritten.
COLUMNS = """
ALTER TABLE notifications ADD COLUMN receipt_at timestamp with time zone;

ALTER TABLE events ADD COLUMN happened_at timestamp with time zone
"""

# Building an index stops writes to its day. The operator of a large system builds it beforehand, on
# each day, with CONCURRENTLY (docs/how-to/run-in-production.md); PostgreSQL takes over such a one.
FINDING = """
CREATE INDEX notifications_by_message_id ON notifications USING hash (message_id);

CREATE TABLE receipts_waiting (
    sns_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    value BYTEA NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    try_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (sns_id)
);

CREATE INDEX ix_receipts_waiting_try_at ON receipts_waiting (try_at)
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(FINDING)
