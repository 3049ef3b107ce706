"""The broker's time of the last folded record, and the topic's name, beside each position."""

from alembic import op

revision = "0004"
down_revision = "0003"

# Without a default, so that no row is rewritten. The next fold of a partition fills both.
COLUMNS = """
ALTER TABLE positions ADD COLUMN at TIMESTAMP WITH TIME ZONE, ADD COLUMN topic TEXT
"""


def upgrade() -> None:
    op.execute(COLUMNS)
