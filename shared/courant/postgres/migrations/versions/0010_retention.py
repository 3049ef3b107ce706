"""Find the rows whose content has to be emptied by an index that emptied rows leave.

Lists use the same index: they show only rows that have their content.
"""

from alembic import op

from courant.postgres.indexes import build_beforehand

revision = "0010"
down_revision = "0009"

BY_SERVICE = "(service_id, accepted_at, id) WHERE sealed <> ''"
INDEXES = f"""
DROP INDEX notifications_by_service;

CREATE INDEX notifications_by_service ON notifications {BY_SERVICE};

CREATE INDEX jobs_with_content ON jobs (service_id, accepted_at, id) WHERE name <> ''
"""


def upgrade() -> None:
    build_beforehand(op.get_bind(), {"notifications_by_service": BY_SERVICE})
    op.execute(INDEXES)
