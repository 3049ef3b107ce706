"""What became of a send, by what the caller got: one table for all of AWS's errors.

None of the provider's own words is passed on: they quote addresses and numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, TypeAlias

from botocore import exceptions as botocore

from courant.contracts import Outcome
from deliverer.calls import (
    AccountTrouble,
    Deferred,
    ProviderOutcome,
    Rejected,
    RetryAlone,
    Throttled,
    Unknown,
)


class Api(Enum):
    """Whose answer it is."""

    SES = "ses"
    SMS = "end-user-messaging"
    SNS = "sns"


Maker: TypeAlias = Callable[[str], ProviderOutcome]
SENDER_PAUSE = timedelta(minutes=5)
OPTED_OUT = "Phone number is opted out"  # the API's words for it


def throttled(reason: str) -> ProviderOutcome:
    return Throttled(reason)


def account(reason: str) -> ProviderOutcome:
    return AccountTrouble(reason)


def sender(reason: str) -> ProviderOutcome:
    # One service's own domain is at fault: the others' mail goes on, and this waits for a person.
    return Deferred(reason, retry_after=SENDER_PAUSE)


def permanent(reason: str) -> ProviderOutcome:
    return Rejected(reason)


def retry_alone(reason: str) -> ProviderOutcome:
    return RetryAlone(reason)


def unsupported(reason: str) -> ProviderOutcome:
    return Rejected(reason, Outcome.UNSUPPORTED)


def opted_out(reason: str) -> ProviderOutcome:
    return Rejected(reason, Outcome.UNSENDABLE, OPTED_OUT)


def retry_blaming(reason: str) -> ProviderOutcome:
    return Deferred(reason, blames=True)


def retry_once(reason: str) -> ProviderOutcome:
    return Deferred(reason, blames=True, tries_max=2, final_outcome=Outcome.REJECTED)


def retry_unblamed(reason: str) -> ProviderOutcome:
    return Deferred(reason, retry_after=timedelta(seconds=10))


def unknown(reason: str) -> ProviderOutcome:
    return Unknown(reason)


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """Codes of one API, and what they mean; the first row that fits counts.

    `having` is a part of the message (SES, SNS) or the whole Reason (End User Messaging).
    """

    api: Api | None
    codes: str
    having: str
    says: Maker


ANY = ""
CREDENTIALS = (
    "AccessDenied AccessDeniedException UnrecognizedClientException ExpiredToken "
    "ExpiredTokenException InvalidSignatureException SignatureDoesNotMatch "
    "MissingAuthenticationToken MissingAuthenticationTokenException InvalidClientTokenId"
)
TOO_FAST = "TooManyRequestsException ThrottlingException Throttling 429"
KMS = "KMSDisabled KMSInvalidState KMSNotFound KMSOptInRequired KMSThrottling KMSAccessDenied"
INVALID = "InvalidParameter ParameterValueInvalid ValidationException ValidationError"
CLOSED = "LimitExceededException AccountSuspendedException SendingPausedException"
REFUSED = "ServiceQuotaExceededException AccessDeniedException ResourceNotFoundException"
# fmt: off
ERRORS = (
    ErrorRule(Api.SES, TOO_FAST, "Daily message quota", account),
    ErrorRule(Api.SES, TOO_FAST, ANY, throttled),
    ErrorRule(Api.SES, CLOSED, ANY, account),
    ErrorRule(Api.SES, "MailFromDomainNotVerifiedException", ANY, sender),
    ErrorRule(Api.SES, "NotFoundException", ANY, account),
    ErrorRule(Api.SES, "MessageRejected", "is not verified", sender),
    ErrorRule(Api.SES, "MessageRejected BadRequestException", ANY, permanent),
    ErrorRule(Api.SMS, "ThrottlingException", ANY, throttled),
    ErrorRule(Api.SMS, REFUSED, ANY, account),
    ErrorRule(Api.SMS, "ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", opted_out),
    ErrorRule(Api.SMS, "ConflictException ValidationException", ANY, unsupported),
    ErrorRule(Api.SNS, "Throttling ThrottlingException", ANY, throttled),
    ErrorRule(Api.SNS, INVALID, ANY, permanent),
    ErrorRule(Api.SNS, "AuthorizationError InvalidSecurity OptInRequired", ANY, account),
    ErrorRule(Api.SNS, KMS, ANY, account),
    ErrorRule(None, CREDENTIALS, ANY, account),
    ErrorRule(None, "429", ANY, throttled),
)
# fmt: on
# A bulk call's own statuses, inside an HTTP 200.
STATUSES: Mapping[str, Maker] = {
    "MESSAGE_REJECTED": permanent,
    "INVALID_PARAMETER": permanent,
    "TRANSIENT_FAILURE": retry_unblamed,
    "ACCOUNT_THROTTLED": throttled,
    "ACCOUNT_SUSPENDED": account,
    "ACCOUNT_SENDING_PAUSED": account,
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": account,
    "CONFIGURATION_SET_SENDING_PAUSED": account,
    "CONFIGURATION_SET_NOT_FOUND": account,
    "TEMPLATE_NOT_FOUND": account,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": sender,
    "INVALID_SENDING_POOL_NAME": account,
    "FAILED": retry_once,
}
# Raised before anything left this machine; the others of botocore's are unknown.
NOT_SENT: Sequence[tuple[type[Exception], Maker]] = (
    (botocore.ParamValidationError, permanent),
    (botocore.NoCredentialsError, account),
    (botocore.PartialCredentialsError, account),
    (botocore.NoRegionError, account),
    (botocore.EndpointConnectionError, account),
    (botocore.ConnectTimeoutError, account),
    (botocore.ProxyConnectionError, account),
)
HANDSHAKE = ("certificate", "handshake")


def outcome_of_error(api: Api, error: Exception, to: Sequence[str]) -> ProviderOutcome:
    """Say what became of a call to these recipients that raised."""
    if isinstance(error, botocore.ClientError):
        return outcome_of_answer(api, error.response, to)
    for kind, says in NOT_SENT:
        if isinstance(error, kind):
            return blaming(says, to)(kind.__name__)
    if isinstance(error, botocore.SSLError) and any(
        word in str(error).lower() for word in HANDSHAKE
    ):
        return account("SSLError")
    return Unknown(type(error).__name__)


def outcome_of_answer(api: Api, response: Mapping[str, Any], to: Sequence[str]) -> ProviderOutcome:
    """Say what an error answer means: 5xx is unknown whatever its code, 4xx goes by the table."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if not 400 <= status < 500:
        return Unknown(f"HTTP {status}")
    reason = str(response.get("Reason") or code) if api is Api.SMS else code
    return blaming(maker(api, code, response, to), to)(reason)


def maker(api: Api, code: str, response: Mapping[str, Any], to: Sequence[str]) -> Maker:
    """Find the row that fits; an error that has none is put back a few times, then given up."""
    message = str(response.get("Error", {}).get("Message", ""))
    for row in ERRORS:
        if row.api not in {api, None} or code not in row.codes.split():
            continue
        if not row.having or row.having == response.get("Reason") or row.having in message:
            # In a sandbox account it may be a recipient's address that is not verified.
            named = row.says is sender and any(each in message for each in to)
            return permanent if named else row.says
    return retry_blaming


def blaming(says: Maker, to: Sequence[str]) -> Maker:
    """Blame none of several: one bad entry fails a whole bulk call, so each is tried alone."""
    return retry_alone if len(to) > 1 and says in {permanent, retry_blaming} else says


def outcome_of_status(status: str) -> ProviderOutcome:
    """Say what a bulk entry's status means."""
    return STATUSES.get(status, unknown)(status)
