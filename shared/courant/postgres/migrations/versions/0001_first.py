"""The first schema."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE SEQUENCE directory_number AS BIGINT;

CREATE TABLE notifications (
    id UUID NOT NULL,
    service_id UUID NOT NULL,
    key_id UUID NOT NULL,
    key_type TEXT NOT NULL,
    template_id UUID NOT NULL,
    template_version INTEGER NOT NULL,
    channel TEXT NOT NULL,
    lane TEXT NOT NULL,
    job_id UUID,
    job_row INTEGER,
    reference TEXT,
    sender_id UUID,
    recipient_hash BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    accepted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    not_before TIMESTAMP WITH TIME ZONE,
    scheduled_for TIMESTAMP WITH TIME ZONE,
    state TEXT DEFAULT 'created' NOT NULL,
    state_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    attempt INTEGER DEFAULT '0' NOT NULL,
    tries INTEGER DEFAULT '0' NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    issued_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    sent_at TIMESTAMP WITH TIME ZONE,
    message_id TEXT,
    reason TEXT,
    response TEXT,
    PRIMARY KEY (id),
    CONSTRAINT state_is_known CHECK (state IN ('cancelled', 'claimed', 'created', 'delivered',
        'permanent-failure', 'provider-failure', 'sending', 'sent', 'technical-failure',
        'temporary-failure'))
) PARTITION BY RANGE (id);

CREATE INDEX notifications_by_reference ON notifications USING hash (reference);

CREATE INDEX notifications_due ON notifications (not_before)
    WHERE state = 'created' AND issued_at < not_before;

CREATE INDEX notifications_waiting ON notifications (channel, lane, issued_at)
    WHERE state = 'created' AND coalesce(not_before <= issued_at, true);

CREATE INDEX notifications_by_service ON notifications (service_id, id);

CREATE INDEX notifications_sending ON notifications (state_at) WHERE state = 'sending';

CREATE INDEX notifications_claimed ON notifications (lease_until) WHERE state = 'claimed';

CREATE TABLE events (
    id UUID NOT NULL,
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    move TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    made BOOLEAN DEFAULT 'true' NOT NULL,
    reason TEXT,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id, number)
) PARTITION BY RANGE (id);

CREATE TABLE calls (
    id UUID NOT NULL,
    notifications UUID[] NOT NULL,
    attempts INTEGER[] NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX calls_by_notification ON calls USING gin (notifications);

CREATE TABLE positions (
    topic_id UUID NOT NULL,
    partition INTEGER NOT NULL,
    next BIGINT NOT NULL,
    PRIMARY KEY (topic_id, partition)
);

CREATE TABLE marks (
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    topic_id UUID NOT NULL,
    family TEXT NOT NULL,
    topic TEXT NOT NULL,
    ends BIGINT[] NOT NULL,
    PRIMARY KEY (at, topic_id)
);

CREATE TABLE holds (
    scope TEXT NOT NULL,
    reason TEXT NOT NULL,
    stands BOOLEAN DEFAULT 'true' NOT NULL,
    raised_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    epoch INTEGER GENERATED ALWAYS AS
        (extract(epoch FROM raised_at - timestamptz '2020-01-01 00:00Z')::int) STORED,
    PRIMARY KEY (scope)
);

CREATE TABLE servers (
    id TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE idempotency (
    service_id UUID NOT NULL,
    key_hash BYTEA NOT NULL,
    id UUID NOT NULL,
    body_hash BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (service_id, key_hash)
);

CREATE INDEX ix_idempotency_at ON idempotency (at);

CREATE TABLE aliases (
    id UUID NOT NULL,
    winner UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX ix_aliases_at ON aliases (at);

CREATE TABLE redrives (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    by TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);

CREATE TABLE directory (
    key TEXT NOT NULL,
    number BIGINT NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (key)
)
"""


def upgrade() -> None:
    op.execute(TABLES)
