"""Keep when the request of an Idempotency-Key was accepted, and what the key stood for before.

Each statement changes the catalogue only. The new columns have defaults, so that savers and
job-runners of the version before go on until they are replaced.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

KEYS = """
ALTER TABLE idempotency RENAME COLUMN at TO accepted_at;
ALTER TABLE idempotency
    RENAME CONSTRAINT idempotency_at_not_null TO idempotency_accepted_at_not_null;
ALTER INDEX ix_idempotency_at RENAME TO ix_idempotency_accepted_at;
ALTER TABLE idempotency
    ADD COLUMN last_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ADD COLUMN earlier JSONB DEFAULT '[]' NOT NULL
"""


def upgrade() -> None:
    op.execute(KEYS)
