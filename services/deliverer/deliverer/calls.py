"""The values of sending: a claimed row, its rendered message, a call and its outcomes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from courant.contracts import KeyType, Outcome, ReceiptKind


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row that this process has claimed for one attempt, until its lease ends."""

    id: UUID
    attempt: int
    tries: int  # earlier outcomes that blame the message
    service_id: UUID
    key_type: KeyType
    template_id: UUID
    template_version: int
    sender_id: UUID | None
    sealed: bytes
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class RenderedEmail:
    """A rendered email; `data` holds its parts as the JSON text that a bulk call carries."""

    subject: str
    text: str
    fragment: str  # HTML without the page around it
    data: str


@dataclass(frozen=True, slots=True)
class RenderedSms:
    """The text of an SMS, including the service's prefix."""

    body: str


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One notification, ready to be sent in a call."""

    row: ClaimedRow
    source: str  # the From address, or the number or sender id of an SMS
    reply_to: str | None
    to: str  # in the form that the provider receives
    message: RenderedEmail | RenderedSms
    size_bytes: int  # an upper bound of its size in the call's body


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a provider: notifications with the same From (or SMS origin) and Reply-To."""

    id: UUID
    entries: tuple[CallEntry, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider accepted the message.

    `receipt` is set only if the provider reports the receipt together with its answer.
    """

    message_id: str
    outcome: Outcome = Outcome.ACCEPTED
    receipt: ReceiptKind | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The message was certainly not sent, and a later try may succeed.

    If the outcome blames the message, it counts as a try. The `tries_max`-th try ends with
    `final_outcome`.
    """

    reason: str
    retry_after: timedelta = timedelta()
    blames: bool = False
    tries_max: int = 5
    final_outcome: Outcome = Outcome.UNSENDABLE


@dataclass(frozen=True, slots=True)
class Rejected:
    """The message was certainly not sent and is not retried; `outcome` is reported for it."""

    reason: str
    outcome: Outcome = Outcome.REJECTED
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The message may have been sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider rejected the message because calls come too fast; it was not sent.

    The entry goes into the next call, as the same attempt.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RetryAlone:
    """The provider rejected the whole call because of one entry, without naming the entry.

    Nothing was sent. Each entry is retried in a call of its own.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class AccountTrouble:
    """The message was not sent for a reason that affects every message of the account.

    Calls to this provider stop for a while.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class SenderTrouble:
    """The message was not sent because the provider does not accept its sender.

    Messages of this sender wait until a person repairs it.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The message was not sent: it has a fault of its own, or everybody is refused alike.

    `proven` is its outcome once it is known to be its own fault.
    """

    proven: Rejected | Deferred
    names_recipient: bool = False  # the provider's words are about the recipient

    @property
    def reason(self) -> str:
        """The provider's code."""
        return self.proven.reason


FinalOutcome: TypeAlias = Accepted | Deferred | Rejected | Unknown
ProviderOutcome: TypeAlias = (
    FinalOutcome | Throttled | RetryAlone | AccountTrouble | SenderTrouble | Refusal
)
