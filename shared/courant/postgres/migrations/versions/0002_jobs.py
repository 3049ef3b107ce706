"""Jobs: the chunks of uploads, the jobs made from them, and the clients' commands to jobs."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE chunks (
    upload_id UUID NOT NULL,
    number INTEGER NOT NULL,
    first INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    fingerprint BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    issued_at TIMESTAMP WITH TIME ZONE,
    orders INTEGER DEFAULT '0' NOT NULL,
    saved_at TIMESTAMP WITH TIME ZONE,
    settled_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (upload_id, number)
);

CREATE INDEX chunks_to_issue ON chunks (upload_id, number) WHERE issued_at IS NULL;

CREATE INDEX chunks_out ON chunks (issued_at)
    WHERE orders > 0 AND (settled_at IS NULL OR saved_at IS NULL);

CREATE INDEX chunks_settled ON chunks (settled_at);

CREATE INDEX ix_chunks_at ON chunks (at);

CREATE TABLE jobs (
    id UUID NOT NULL,
    upload_id UUID NOT NULL,
    chunks INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    digest BYTEA NOT NULL,
    service_id UUID NOT NULL,
    key_id UUID NOT NULL,
    key_type TEXT NOT NULL,
    template_id UUID NOT NULL,
    template_version INTEGER NOT NULL,
    channel TEXT NOT NULL,
    sender_id UUID,
    name BYTEA NOT NULL,
    accepted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    scheduled_for TIMESTAMP WITH TIME ZONE,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE INDEX jobs_to_do ON jobs (accepted_at) WHERE finished_at IS NULL;

CREATE INDEX jobs_by_service ON jobs (service_id, accepted_at, id);

CREATE INDEX ix_jobs_at ON jobs (at);

CREATE TABLE wishes (
    job_id UUID NOT NULL,
    wish TEXT NOT NULL,
    wished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (job_id)
);

CREATE INDEX ix_wishes_at ON wishes (at)
"""


def upgrade() -> None:
    op.execute(TABLES)
