"""List a service's notifications by acceptance, as an id may be of any moment of its day."""

from alembic import op

revision = "0003"
down_revision = "0002"

INDEX = """
DROP INDEX notifications_by_service;

CREATE INDEX notifications_by_service ON notifications (service_id, accepted_at, id)
"""


def upgrade() -> None:
    op.execute(INDEX)
