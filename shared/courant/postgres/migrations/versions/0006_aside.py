"""Set the reports on a locked row aside, so that they stop no partition of the log."""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLE = """
CREATE TABLE aside (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    topic_id uuid NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    report text NOT NULL,
    at timestamptz NOT NULL DEFAULT now());

CREATE INDEX aside_by_id ON aside (id);
"""


def upgrade() -> None:
    op.execute(TABLE)
