"""The declared tables, from which the migrations are written.

Notifications and events are partitioned by the day of their id. The saver makes the partition of
each new day.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from courant import lifecycle
from courant.lifecycle import State

metadata = MetaData()

BY_DAY = "RANGE (id)"
TIME = DateTime(timezone=True)
EPOCH = "extract(epoch FROM raised_at - timestamptz '2020-01-01 00:00Z')::int"


UNDER_WAY = "orders > 0 AND (settled_at IS NULL OR saved_at IS NULL)"
"""Selects chunks that are ordered and are still in their lane or lack a row.

The index has exactly this text: a query that words it differently does not use the index.
"""

IN_TURN = "coalesce(not_before <= issued_at, true)"
"""Selects created rows that wait for their turn, not for a time. An index has this text too."""
SINCE = "coalesce(scheduled_for, accepted_at)"
"""Since when a row may be sent. An index has this text too."""
WITH_CONTENT = "sealed <> ''"
"""Selects notifications whose content is not emptied. An index has this text too."""
JOB_WITH_CONTENT = "name <> ''"
"""Selects jobs whose content is not emptied. An index has this text too."""


def only(state: State, *more: str) -> object:
    """Restrict an index to rows of one state, so that it stays as small as that state's backlog."""
    return text(" AND ".join((f"state = '{state}'", *more)))


# fmt: off
notifications = Table(
    "notifications", metadata,
    Column("id", Uuid, primary_key=True),
    Column("service_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("key_type", Text, nullable=False),
    Column("template_id", Uuid, nullable=False),
    Column("template_version", Integer, nullable=False),
    Column("channel", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("job_id", Uuid),
    Column("job_row", Integer),
    Column("reference", Text),
    Column("sender_id", Uuid),
    Column("recipient_hash", LargeBinary, nullable=False),
    # The personal data; the saver has no key. Emptied after the service's retention.
    Column("sealed", LargeBinary, nullable=False),
    Column("accepted_at", TIME, nullable=False),
    Column("not_before", TIME),
    Column("scheduled_for", TIME),
    Column("state", Text, nullable=False, server_default=lifecycle.Move.SAVED.after),
    Column("state_at", TIME, nullable=False, server_default=func.now()),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("tries", Integer, nullable=False, server_default="0"),  # outcomes that blame the message
    Column("lease_until", TIME),
    Column("issued_at", TIME, nullable=False, server_default=func.now()),
    Column("sent_at", TIME),
    Column("message_id", Text),  # the provider's
    Column("reason", Text),      # of the last move that had one
    Column("response", Text),    # the provider's text, for the API
    Column("receipt_at", TIME),  # when the receipt that counts happened, by the provider's clock
    CheckConstraint(lifecycle.check(), name="state_is_known"),
    # A reference of 9,000 characters would be too long for an entry of a B-tree.
    Index("notifications_by_reference", "reference", postgresql_using="hash"),
    Index("notifications_by_message_id", "message_id", postgresql_using="hash"),
    # Lists show only rows that have their content, and recovery looks for those to empty.
    Index("notifications_by_service", "service_id", "accepted_at", "id",
          postgresql_where=text(WITH_CONTENT)),
    # Rows that wait for a time, and rows that wait for their turn, of a job or not, have an index
    # each, so that a backlog of one does not slow the others.
    Index("notifications_due", "not_before",
          postgresql_where=only(State.CREATED, "issued_at < not_before")),
    Index("notifications_unclaimed", "channel", "lane", "issued_at",
          postgresql_where=only(State.CREATED, IN_TURN, "job_id IS NULL")),
    Index("notifications_of_jobs", "channel", "job_id", "issued_at",
          postgresql_where=only(State.CREATED, IN_TURN, "job_id IS NOT NULL")),
    Index("notifications_to_expire", text(SINCE), "id", postgresql_where=only(State.CREATED)),
    Index("notifications_claimed", "lease_until", postgresql_where=only(State.CLAIMED)),
    Index("notifications_sending", "state_at", postgresql_where=only(State.SENDING)),
    postgresql_partition_by=BY_DAY,
)
events = Table(
    "events", metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("move", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("made", Boolean, nullable=False, server_default="true"),  # false: the report was late
    Column("reason", Text),
    Column("at", TIME, nullable=False, server_default=func.now()),
    Column("happened_at", TIME),  # of a receipt, by the provider's clock
    postgresql_partition_by=BY_DAY,
)
calls = Table(  # the entries of calls to providers whose outcome is not known yet
    "calls", metadata,
    Column("id", Uuid, primary_key=True),  # the call's
    Column("notification", Uuid, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now()),
    Index("calls_by_notification", "notification", "attempt"),
)
receipts_waiting = Table(  # receipts without our tags whose row is not known yet, kept 7 days
    "receipts_waiting", metadata,
    Column("sns_id", Text, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),  # the record as it was read
    Column("partition", Integer, nullable=False),  # and where
    Column("offset", BigInteger, nullable=False),
    Column("at", TIME, nullable=False),  # when it was written, by the broker's clock
    Column("try_at", TIME, nullable=False, server_default=func.now(), index=True),
)
positions = Table(  # how far the log is folded
    "positions", metadata,
    Column("topic_id", Uuid, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next", BigInteger, nullable=False),
    Column("at", TIME),     # the latest broker's time of a folded record
    Column("topic", Text),  # its name: a recreated topic has another id
)
aside = Table(  # reports on rows that another session has locked, in the order of their records
    "aside", metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Uuid, nullable=False),
    # Of the record. A mark behind it is not passed before its reports are folded.
    Column("topic_id", Uuid, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now()),
    Index("aside_by_id", "id"),
)
refolds = Table(  # what `courant restore` set back (`courant.postgres.refolds`)
    "refolds", metadata,
    Column("topic_id", Uuid, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("below", BigInteger, nullable=False),        # records before it were folded before
    Column("after_event", BigInteger, nullable=False),  # rows saved by a later event came back
)
marks = Table(  # recovery's, every second: records written before `at` lie before `ends`
    "marks", metadata,
    Column("at", TIME, primary_key=True),
    Column("topic_id", Uuid, primary_key=True),
    Column("family", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("ends", ARRAY(BigInteger), nullable=False),  # by partition, from 0
)
holds = Table(  # stops of claims and sweeps (`holds.Scope`); a lifted hold stays for its epoch
    "holds", metadata,
    Column("scope", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("stands", Boolean, nullable=False, server_default="true"),
    Column("raised_at", TIME, nullable=False, server_default=func.now()),
    # A claim uses greatest(attempt + 1, epoch), so that no attempt that Postgres lost is reused.
    Column("epoch", Integer, Computed(EPOCH, persisted=True)),
)
servers = Table("servers", metadata, Column("id", Text, primary_key=True))  # seen before
idempotency = Table(  # which notification a client's Idempotency-Key stands for, kept 48 h
    "idempotency", metadata,
    Column("service_id", Uuid, primary_key=True),
    Column("key_hash", LargeBinary, primary_key=True),
    Column("id", Uuid, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    Column("accepted_at", TIME, nullable=False, server_default=func.now(), index=True),
    Column("last_at", TIME, nullable=False, server_default=func.now()),  # of a repetition
    Column("earlier", JSONB, nullable=False, server_default="[]"),  # what it stood for before
)
aliases = Table(  # ids that were answered 201 although `winner` is the one notification
    "aliases", metadata,
    Column("id", Uuid, primary_key=True),
    Column("winner", Uuid, nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now(), index=True),
)
chunks = Table(  # the rows of uploads; chunks of an upload without a job expire
    "chunks", metadata,
    Column("upload_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("first", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now(), index=True),
    Column("issued_at", TIME),   # of its last order
    Column("orders", Integer, nullable=False, server_default="0"),
    Column("saved_at", TIME),    # all of its rows are stored
    Column("settled_at", TIME),  # most of them have left their lane
    Index("chunks_to_issue", "upload_id", "number", postgresql_where=text("issued_at IS NULL")),
    # Chunks under way: a million chunks that are not ordered yet do not slow the search for them.
    Index("chunks_out", "issued_at", postgresql_where=text(UNDER_WAY)),
    Index("chunks_settled", "settled_at"),
)
jobs = Table(  # jobs whose upload is complete: its seal has come
    "jobs", metadata,
    Column("id", Uuid, primary_key=True),
    Column("upload_id", Uuid, nullable=False, index=True),
    Column("chunks", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("service_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("key_type", Text, nullable=False),
    Column("template_id", Uuid, nullable=False),
    Column("template_version", Integer, nullable=False),
    Column("channel", Text, nullable=False),
    Column("sender_id", Uuid),
    Column("name", LargeBinary, nullable=False),  # the file's, encrypted
    Column("accepted_at", TIME, nullable=False),
    Column("scheduled_for", TIME),
    Column("at", TIME, nullable=False, server_default=func.now(), index=True),
    Column("started_at", TIME),   # its first chunk was ordered
    Column("finished_at", TIME),  # all of its chunks are settled, or it was cancelled
    Index("jobs_by_service", "service_id", "accepted_at", "id"),
    Index("jobs_with_content", "service_id", "accepted_at", "id",
          postgresql_where=text(JOB_WITH_CONTENT)),
    Index("jobs_to_do", "accepted_at", postgresql_where=text("finished_at IS NULL")),
)
wishes = Table(  # a client's last command to a job; it may come before the job itself
    "wishes", metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("wish", Text, nullable=False),
    Column("wished_at", TIME, nullable=False),  # when the client asked; decides between two
    Column("at", TIME, nullable=False, server_default=func.now(), index=True),
)
redrives = Table(  # which dead letters were sent back, and by whom
    "redrives", metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("by", Text, nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now()),
)
directory = Table(  # a row is a record of the topic `directory`
    "directory", metadata,
    Column("key", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),  # never used twice
    Column("value", LargeBinary, nullable=False),
)
directory_number = Sequence("directory_number", metadata=metadata, data_type=BigInteger)
# fmt: on
