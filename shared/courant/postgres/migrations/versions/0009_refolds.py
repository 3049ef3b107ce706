"""Note which records of the log were folded before `courant restore` set the positions back."""

from alembic import op

revision = "0009"
down_revision = "0008"

REFOLDS = """
CREATE TABLE refolds (
    topic_id UUID NOT NULL,
    partition INTEGER NOT NULL,
    below BIGINT NOT NULL,
    after_event BIGINT NOT NULL,
    PRIMARY KEY (topic_id, partition)
)
"""


def upgrade() -> None:
    op.execute(REFOLDS)
