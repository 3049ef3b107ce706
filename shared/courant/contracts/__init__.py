"""The records that services exchange: what the bytes in each topic mean.

Each record names the oldest reader that can read it; an older one makes it a dead letter. Readers
ignore unknown fields. So a writer may be upgraded first, and a new field needs no new version.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from courant.contracts.encoding import ENCODE as ENCODE
from courant.contracts.encoding import Contract as Contract
from courant.contracts.encoding import Malformed as Malformed
from courant.contracts.encoding import Nested, Number, Text
from courant.contracts.encoding import Time as Time
from courant.contracts.encoding import decoder as decoder
from courant.contracts.encoding import read as read
from courant.lifecycle import Move
from courant.topics import Channel, Lane


class KeyType(StrEnum):
    """What an API key may do. The values are the API's own."""

    NORMAL = "normal"
    TEAM = "team"
    TEST = "test"


class Notification(Contract, frozen=True, kw_only=True):
    """`inbox.*`, key `id`: a client was answered 201 for this; ingest, job-runner → saver."""

    id: UUID
    service_id: UUID
    key_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: Number
    channel: Channel
    lane: Lane
    job_id: UUID | None = None
    job_row: Number | None = None
    reference: str | None = None
    sender_id: UUID | None = None  # of a reply-to address, or of an SMS sender
    recipient_hash: bytes
    sealed: bytes  # an encrypted Content; only the deliverer and ingest's reads decrypt it
    accepted_at: Time
    scheduled_for: Time | None = None
    idempotency_key: bytes | None = None  # its keyed hash
    body_hash: bytes | None = None  # hash of the request's body, if it came with such a key


Scalar: TypeAlias = str | int | float | bool | None


class Content(Nested, frozen=True, kw_only=True):
    """The personal data of a notification: always encrypted, in Kafka and Postgres, for its id."""

    to: str  # as the client gave it
    personalisation: dict[str, Scalar | list[Scalar]] = msgspec.field(default_factory=dict)


class Persisted(Contract, frozen=True, kw_only=True):
    """`persisted.*`, key `id`: the row is stored, send it; saver, recovery → deliverer."""

    id: UUID


class Attempt(Nested, frozen=True, kw_only=True):
    """One attempt to send a notification, as part of a call to a provider."""

    id: UUID
    attempt: Number


class Outcome(StrEnum):
    """What a provider did with an attempt. UNKNOWN means that it may or may not have sent it."""

    ACCEPTED = "accepted"
    HANDED_OVER = "handed-over"  # accepted by a provider that sends no receipt
    DEFERRED = "deferred"
    REJECTED = "rejected"
    UNSENDABLE = "unsendable"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


class AttemptOutcome(Attempt, frozen=True, kw_only=True):
    """An attempt, and what the provider did with it."""

    outcome: Outcome
    message_id: Text | None = None  # the provider's
    reason: Text | None = None  # in our words, for the timeline
    response: Text | None = None  # in the provider's words, shown by the API
    retry_after: timedelta = timedelta()
    blames: bool = False  # the message is to blame, so that the try counts


class Started(Contract, frozen=True, kw_only=True, tag="started", tag_field="kind"):
    """`delivery`, key `call`: these are about to be sent to the provider; deliverer → saver."""

    call: UUID
    attempts: tuple[Attempt, ...]


class Outcomes(Contract, frozen=True, kw_only=True, tag="outcomes", tag_field="kind"):
    """`delivery`, key `call`: the outcomes of a call's attempts; deliverer → saver."""

    call: UUID
    answers: tuple[AttemptOutcome, ...]


class Decided(Contract, frozen=True, kw_only=True, tag="decided", tag_field="kind"):
    """`delivery`, key `id`: recovery's decision on an overdue row; recovery → saver."""

    id: UUID
    attempt: Annotated[int, Meta(ge=0, lt=2**31)]
    move: Move
    reason: Text | None = None


Delivery: TypeAlias = Started | Outcomes | Decided


class ReceiptKind(StrEnum):
    """What a receipt means for its row."""

    SENT = "sent"
    DELIVERED = "delivered"
    DELAYED = "delayed"  # the provider stopped trying: a temporary failure
    BOUNCED = "bounced"
    OPTED_OUT = "opted-out"
    COMPLAINED = "complained"  # about a delivered message: only the timeline shows it


class Receipt(Contract, frozen=True, kw_only=True, tag="receipt", tag_field="kind"):
    """`receipts`, key `id`: what the provider reports later on an attempt; ingest → saver."""

    id: UUID
    attempt: Number
    says: ReceiptKind
    message_id: Text | None = None
    reason: Text | None = None  # the kind of event, in our words: `hard-bounce/no-email`
    response: Text | None = None  # shown by the API as the provider's response
    sealed: bytes = b""  # the receipt as it came, encrypted for the id
    happened_at: Time | None = None  # by the provider's clock; earlier writers left it out
    sns_id: Text | None = None  # the MessageId under which SNS posted it
    weak: bool = False  # neither outdates another receipt nor holds against one


ReceiptId: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,250}\Z")]
"""An id that a provider or SNS gives: the database can hold it, and an index its entry."""


class UntaggedReceipt(Contract, frozen=True, kw_only=True, tag="untagged", tag_field="kind"):
    """`receipts`, key `message_id`: a receipt that names no notification; ingest → saver.

    The saver finds the row by the provider's message id. Until a row has that id, it waits.
    """

    message_id: ReceiptId
    says: ReceiptKind
    reason: Text | None = None
    response: Text | None = None
    sealed: bytes = b""  # the receipt as it came, encrypted for the message id
    happened_at: Time
    sns_id: ReceiptId
    weak: bool = False

    def of(self, id: UUID, attempt: int, sealed: bytes = b"") -> Receipt:
        """Return it as the receipt of an attempt; `sealed` must be encrypted for the new owner."""
        return Receipt(
            id=id,
            attempt=attempt,
            says=self.says,
            message_id=self.message_id,
            reason=self.reason,
            response=self.response,
            sealed=sealed,
            happened_at=self.happened_at,
            sns_id=self.sns_id,
            weak=self.weak,
        )


class UnreadPost(Contract, frozen=True, kw_only=True, tag="unread", tag_field="kind"):
    """`receipts`, key `sns_id`: a genuine post that no service can use yet; ingest → saver.

    The saver makes it a dead letter. A later version can use it once it is sent back.
    """

    sns_id: Text
    reason: Text
    sealed: bytes  # the post as it came, encrypted for `sns_id`


class Heartbeat(Contract, frozen=True, kw_only=True, tag="heartbeat", tag_field="kind"):
    """`receipts`, no key: receipts were writable at this time; recovery → ingest → recovery."""

    at: Time
    trouble: Text | None = None  # why ingest, which wrote this itself, had to put off a receipt


decode_delivery: Callable[[bytes], Delivery] = partial(read, msgspec.json.Decoder(Delivery).decode)
"""Read a record of `delivery`; raises Malformed."""
ReceiptRecord: TypeAlias = Receipt | UntaggedReceipt | UnreadPost | Heartbeat
_receipt = msgspec.json.Decoder(ReceiptRecord).decode
decode_receipt: Callable[[bytes], ReceiptRecord] = partial(read, _receipt)
"""Read a record of `receipts`; raises Malformed."""


class JobRow(Nested, frozen=True, kw_only=True):
    """One checked row of a file. It is always inside a chunk, compressed and encrypted."""

    to: str  # as the client gave it
    recipient_hash: bytes
    personalisation: dict[str, Scalar | list[Scalar]] = msgspec.field(default_factory=dict)
    reference: str | None = None
    simulated: bool = False  # nothing is to be sent


class Chunk(Contract, frozen=True, kw_only=True, tag="chunk", tag_field="kind"):
    """`jobs`, key `upload_id`: some rows of an upload; ingest → job-runner."""

    upload_id: UUID
    number: Annotated[int, Meta(ge=0, lt=2**31)]
    first: Number  # number of its first row; the row below the file's header is 1
    rows: Number
    sealed: bytes  # courant.bulk packs and unpacks it


class Seal(Contract, frozen=True, kw_only=True, tag="seal", tag_field="kind"):
    """`jobs`, key `upload_id`: all its chunks are acknowledged; ingest, job-runner → job-runner."""

    job_id: UUID
    upload_id: UUID
    chunks: Annotated[int, Meta(ge=0, lt=2**31)]
    rows: Annotated[int, Meta(ge=0, lt=2**31)]
    digest: bytes  # courant.bulk.digest of the chunks, in order
    service_id: UUID
    key_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: Number
    channel: Channel
    sender_id: UUID | None = None
    name: bytes  # the file's, encrypted for the job's id
    accepted_at: Time
    scheduled_for: Time | None = None
    idempotency_key: bytes | None = None  # its keyed hash
    body_hash: bytes | None = None  # hash of the request's body, if it came with such a key
    # In job-runner's copy: the job that lost the key to this one, although it was accepted first,
    # because it was read when this one had begun. So whoever reads the log again decides alike.
    instead_of: UUID | None = None


class Command(StrEnum):
    """What a client wants of a job. CANCELLED is final; of the others the latest counts."""

    CANCELLED = "cancelled"
    PAUSED = "paused"
    RESUMED = "resumed"


class JobCommand(Contract, frozen=True, kw_only=True, tag="wanted", tag_field="kind"):
    """`jobs`, key `job_id`: a client's command to a job; ingest → job-runner."""

    job_id: UUID
    command: Command = msgspec.field(name="wish")
    at: Time


JobRecord: TypeAlias = Chunk | Seal | JobCommand
decode_job: Callable[[bytes], JobRecord] = partial(read, msgspec.json.Decoder(JobRecord).decode)
"""Read a record of `jobs`; raises Malformed."""


class ChunkOrder(Contract, frozen=True, kw_only=True):
    """`chunks`, key job id and number: make notifications of a chunk; job-runner → job-runner.

    Recovery writes it too. It only points to the chunk, whose rows are read from Postgres.
    """

    job_id: UUID
    number: Annotated[int, Meta(ge=0, lt=2**31)]


class Stat(Contract, frozen=True, kw_only=True):
    """`stats`, key `stage`: counts of one batch; deliverer → recovery's live figures."""

    stage: str
    lane: str
    count: int
    at: Time
