"""The faults that the sandbox produces on demand: in memory, one set for each channel.

`PUT /_control` takes a JSON merge patch of `Faults` (null resets a value). It applies to both
channels or, with `"channel": "email"` or `"sms"`, to one. An invalid patch changes nothing.
"""

import asyncio
from typing import Annotated, Any, Literal, get_args

import msgspec

from courant_sandbox.messages import Channel

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
Stage = Literal["before-booking", "after-booking"]
EntryStatus = Literal[
    "MESSAGE_REJECTED", "MAIL_FROM_DOMAIN_NOT_VERIFIED", "CONFIGURATION_SET_NOT_FOUND",
    "TEMPLATE_NOT_FOUND", "ACCOUNT_SUSPENDED", "ACCOUNT_THROTTLED",
    "ACCOUNT_DAILY_QUOTA_EXCEEDED", "INVALID_SENDING_POOL_NAME", "ACCOUNT_SENDING_PAUSED",
    "CONFIGURATION_SET_SENDING_PAUSED", "INVALID_PARAMETER", "TRANSIENT_FAILURE", "FAILED",
]  # fmt: skip
Kind = Literal[
    "Send", "Delivery", "Bounce", "Complaint", "Reject", "Rendering Failure", "DeliveryDelay",
    "TEXT_QUEUED", "TEXT_SENT", "TEXT_PENDING", "TEXT_SUCCESSFUL", "TEXT_DELIVERED",
    "TEXT_UNREACHABLE", "TEXT_CARRIER_UNREACHABLE", "TEXT_TTL_EXPIRED", "TEXT_UNKNOWN",
    "TEXT_BLOCKED", "TEXT_CARRIER_BLOCKED", "TEXT_SPAM", "TEXT_PROTECT_BLOCKED", "TEXT_INVALID",
    "TEXT_INVALID_MESSAGE",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)

HTTP_BY_CODE = {
    "TooManyRequestsException": 429,
    "NotFoundException": 404,
    "AccessDenied": 403,
    "AuthorizationError": 403,
    "InvalidClientTokenId": 403,
    "SignatureDoesNotMatch": 403,
    "InternalError": 500,
    "InternalFailure": 500,
    "InternalServerException": 500,
    "InternalServiceErrorException": 500,
    "ServiceUnavailable": 503,
}


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rejects unknown fields: otherwise a misspelt order would have no effect and no error."""


class Failure(Strict, frozen=True):
    """A refusal by name, before booking. `http` defaults to the status of that name.

    With `source`, only calls whose From address or SMS origin contains this text are refused.
    """

    code: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9]{1,100}$")]
    http: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    message: str = "set by the sandbox's control"
    reason: str | None = None
    resource_type: str | None = None
    source: str = ""
    share: Share = 1.0

    @property
    def status(self) -> int:
        return self.http or HTTP_BY_CODE.get(self.code, 400)


class LostAnswer(Strict, frozen=True):
    """An answer that does not arrive whole, after booking."""

    form: Literal["half-body", "hang"] = "half-body"
    share: Share = 1.0


class BulkStatus(Strict, frozen=True):
    """A status other than SUCCESS for entries of a bulk call, which are then not booked."""

    status: EntryStatus
    share: Share = 1.0


class ReceiptFaults(Strict, frozen=True):
    """How receipts are posted. `kinds` replaces the receipts that follow from the outcome."""

    delay_seconds: Seconds | None = None
    double: bool = False
    shuffle: bool = False
    drop_share: Share = 0.0
    kinds: list[Kind] | None = None
    signature_version: Literal["1", "2"] = "2"


class Faults(Strict, frozen=True):
    """The faults for one channel. By default it behaves well."""

    latency_seconds: Seconds = 0.0
    throttle_share: Share = 0.0
    quota_per_second: Rate | None = None
    calls_per_second: Rate | None = None
    error: Failure | None = None
    error_after_booking: Share = 0.0
    hold: Stage | None = None
    lose_answer: LostAnswer | None = None
    events: ReceiptFaults = ReceiptFaults()
    bulk_status: BulkStatus | None = None


class Control:
    """Holds the faults in force, and lets callers wait for a change."""

    def __init__(self) -> None:
        self._patches: dict[Channel, dict[str, Any]] = {channel: {} for channel in Channel}
        self._faults = dict.fromkeys(Channel, Faults())
        self._changed = asyncio.Event()

    def of(self, channel: Channel) -> Faults:
        return self._faults[channel]

    def shown(self) -> dict[str, Faults]:
        return {channel.value: faults for channel, faults in self._faults.items()}

    def merge(self, body: bytes) -> None:
        """Merge a patch. If it raises msgspec.MsgspecError, nothing has changed."""
        patch = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        one = patch.pop("channel", None)
        channels = [msgspec.convert(one, Channel)] if one is not None else list(Channel)
        patches = {channel: _merged(self._patches[channel], patch) for channel in channels}
        faults = {channel: msgspec.convert(value, Faults) for channel, value in patches.items()}
        self._patches.update(patches)
        self._faults.update(faults)
        self._announce()

    def reset(self) -> None:
        self._patches = {channel: {} for channel in Channel}
        self._faults = dict.fromkeys(Channel, Faults())
        self._announce()

    async def release(self, channel: Channel, stage: Stage) -> None:
        """Wait while calls of the channel are held at this stage."""
        while self._faults[channel].hold == stage:
            await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _merged(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Merge as RFC 7396 defines it."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


class Bucket:
    """A rate as a bucket that may go into debt.

    A call with many recipients passes while any of the rate is left, and later calls are refused
    until the debt is paid, as SES does it.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at: float | None = None

    def take(self, count: int, rate: float, now: float) -> bool:
        full = max(rate, 1.0)
        if self._at is None:
            self._level = full
        else:
            self._level = min(full, self._level + (now - self._at) * rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= count
        return True
