"""What is sent and what comes of it: a claimed row, its message, a call, the provider's word."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from courant.contracts import KeyType, Outcome, ReceiptKind


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row that this process holds for one attempt, until its lease is over."""

    id: UUID
    attempt: int
    tries: int  # outcomes so far that blame the message
    service_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: int
    sender_id: UUID | None
    sealed: bytes
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class RenderedEmail:
    """An email, rendered; `data` is its parts as the JSON that a bulk call carries."""

    subject: str
    text: str
    fragment: str  # of HTML, without the page around it
    data: str


@dataclass(frozen=True, slots=True)
class RenderedSms:
    """The text of an SMS, its prefix included."""

    body: str


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One notification, ready to go into a call."""

    row: ClaimedRow
    source: str  # From, or the SMS's origin
    reply_to: str | None
    to: str  # as it goes over the wire
    message: RenderedEmail | RenderedSms
    size_bytes: int  # at most, in the call's body


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a provider: entries that share their source and reply-to."""

    id: UUID
    entries: tuple[CallEntry, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took it. `receipt` is the receipt where it is known at once."""

    message_id: str
    outcome: Outcome = Outcome.ACCEPTED
    receipt: ReceiptKind | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """Known not to be sent; may succeed later. After `tries_max` that blame it: `final_outcome`."""

    reason: str
    retry_after: timedelta = timedelta()
    blames: bool = False
    tries_max: int = 5
    final_outcome: Outcome = Outcome.UNSENDABLE


@dataclass(frozen=True, slots=True)
class Rejected:
    """Known not to be sent, and never will be; the outcome is what the message becomes."""

    reason: str
    outcome: Outcome = Outcome.REJECTED
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Known not to be sent: too fast. It goes into the next call, as the same attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class RetryAlone:
    """Known not to be sent: one of the call's entries is refused, and nobody says which one."""

    reason: str


@dataclass(frozen=True, slots=True)
class AccountTrouble:
    """Known not to be sent, for a reason that concerns all others too: nothing more is tried."""

    reason: str


FinalOutcome: TypeAlias = Accepted | Deferred | Rejected | Unknown
ProviderOutcome: TypeAlias = FinalOutcome | Throttled | RetryAlone | AccountTrouble
