"""Judge receipts by the time of their event."""

from alembic import op

revision = "0008"
down_revision = "0003"

# Neither column has a default, so that no row is rewritten.
COLUMNS = """
ALTER TABLE notifications ADD COLUMN receipt_at timestamp with time zone;

ALTER TABLE events ADD COLUMN happened_at timestamp with time zone
"""


def upgrade() -> None:
    op.execute(COLUMNS)
