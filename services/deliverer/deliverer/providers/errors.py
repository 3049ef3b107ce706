"""Maps every error of AWS to an outcome, in one table.

The provider's error texts are never passed on, because they quote addresses and numbers.
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
    """The API that returned the answer."""

    SES = "ses"
    SMS = "end-user-messaging"
    SNS = "sns"


OutcomeBuilder: TypeAlias = Callable[[str], ProviderOutcome]
SENDER_PAUSE = timedelta(minutes=5)
OPTED_OUT = "Phone number is opted out"  # the text that our API promises


def throttled(reason: str) -> ProviderOutcome:
    return Throttled(reason)


def account_trouble(reason: str) -> ProviderOutcome:
    return AccountTrouble(reason)


def sender_trouble(reason: str) -> ProviderOutcome:
    # Only one service's domain is at fault. Other services' mail goes on, and this mail is retried
    # every SENDER_PAUSE until a person repairs the domain.
    return Deferred(reason, retry_after=SENDER_PAUSE)


def rejected(reason: str) -> ProviderOutcome:
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
    """The outcome for some error codes of an API (None: of any); the first matching rule counts.

    `contains` matches a part of the message (SES, SNS) or the whole Reason (End User Messaging).
    """

    api: Api | None
    codes: str
    contains: str
    outcome: OutcomeBuilder


ANY = ""
CREDENTIALS = (
    "AccessDenied AccessDeniedException UnrecognizedClientException ExpiredToken "
    "ExpiredTokenException InvalidSignatureException SignatureDoesNotMatch "
    "MissingAuthenticationToken MissingAuthenticationTokenException InvalidClientTokenId"
)
THROTTLE_CODES = "TooManyRequestsException ThrottlingException Throttling 429"
KMS = "KMSDisabled KMSInvalidState KMSNotFound KMSOptInRequired KMSThrottling KMSAccessDenied"
INVALID = "InvalidParameter ParameterValueInvalid ValidationException ValidationError"
SES_STOPPED = "LimitExceededException AccountSuspendedException SendingPausedException"
SMS_STOPPED = "ServiceQuotaExceededException AccessDeniedException ResourceNotFoundException"
# fmt: off
ERRORS = (
    ErrorRule(Api.SES, THROTTLE_CODES, "Daily message quota", account_trouble),
    ErrorRule(Api.SES, THROTTLE_CODES, ANY, throttled),
    ErrorRule(Api.SES, SES_STOPPED, ANY, account_trouble),
    ErrorRule(Api.SES, "MailFromDomainNotVerifiedException", ANY, sender_trouble),
    ErrorRule(Api.SES, "NotFoundException", ANY, account_trouble),
    ErrorRule(Api.SES, "MessageRejected", "is not verified", sender_trouble),
    ErrorRule(Api.SES, "MessageRejected BadRequestException", ANY, rejected),
    ErrorRule(Api.SMS, "ThrottlingException", ANY, throttled),
    ErrorRule(Api.SMS, SMS_STOPPED, ANY, account_trouble),
    ErrorRule(Api.SMS, "ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", opted_out),
    ErrorRule(Api.SMS, "ConflictException ValidationException", ANY, unsupported),
    ErrorRule(Api.SNS, "Throttling ThrottlingException", ANY, throttled),
    ErrorRule(Api.SNS, INVALID, ANY, rejected),
    ErrorRule(Api.SNS, "AuthorizationError InvalidSecurity OptInRequired", ANY, account_trouble),
    ErrorRule(Api.SNS, KMS, ANY, account_trouble),
    ErrorRule(None, CREDENTIALS, ANY, account_trouble),
    ErrorRule(None, "429", ANY, throttled),
)
# fmt: on
# The statuses of a bulk call's entries, inside an HTTP 200 answer.
STATUSES: Mapping[str, OutcomeBuilder] = {
    "MESSAGE_REJECTED": rejected,
    "INVALID_PARAMETER": rejected,
    "TRANSIENT_FAILURE": retry_unblamed,
    "ACCOUNT_THROTTLED": throttled,
    "ACCOUNT_SUSPENDED": account_trouble,
    "ACCOUNT_SENDING_PAUSED": account_trouble,
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": account_trouble,
    "CONFIGURATION_SET_SENDING_PAUSED": account_trouble,
    "CONFIGURATION_SET_NOT_FOUND": account_trouble,
    "TEMPLATE_NOT_FOUND": account_trouble,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": sender_trouble,
    "INVALID_SENDING_POOL_NAME": account_trouble,
    "FAILED": retry_once,
}
# botocore raises these before anything leaves this machine. After its other exceptions the
# outcome is unknown.
NOT_SENT: Sequence[tuple[type[Exception], OutcomeBuilder]] = (
    (botocore.ParamValidationError, rejected),
    (botocore.NoCredentialsError, account_trouble),
    (botocore.PartialCredentialsError, account_trouble),
    (botocore.NoRegionError, account_trouble),
    (botocore.EndpointConnectionError, account_trouble),
    (botocore.ConnectTimeoutError, account_trouble),
    (botocore.ProxyConnectionError, account_trouble),
)
HANDSHAKE_WORDS = ("certificate", "handshake")


def outcome_of_error(api: Api, error: Exception, to: Sequence[str]) -> ProviderOutcome:
    """Return the outcome of a call to these recipients that raised an exception."""
    if isinstance(error, botocore.ClientError):
        return outcome_of_answer(api, error.response, to)
    for kind, outcome in NOT_SENT:
        if isinstance(error, kind):
            return retry_alone_if_several(outcome, to)(kind.__name__)
    if isinstance(error, botocore.SSLError) and any(
        word in str(error).lower() for word in HANDSHAKE_WORDS
    ):
        return account_trouble("SSLError")
    return Unknown(type(error).__name__)


def outcome_of_answer(api: Api, response: Mapping[str, Any], to: Sequence[str]) -> ProviderOutcome:
    """Return the outcome of an error answer: 4xx by the table, 5xx is unknown whatever its code."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if not 400 <= status < 500:
        return Unknown(f"HTTP {status}")
    reason = str(response.get("Reason") or code) if api is Api.SMS else code
    return retry_alone_if_several(outcome_builder(api, code, response, to), to)(reason)


def outcome_builder(
    api: Api, code: str, response: Mapping[str, Any], to: Sequence[str]
) -> OutcomeBuilder:
    """Find the first matching rule's outcome; an error without a rule blames and is retried."""
    message = str(response.get("Error", {}).get("Message", ""))
    for rule in ERRORS:
        if rule.api not in {api, None} or code not in rule.codes.split():
            continue
        if not rule.contains or rule.contains == response.get("Reason") or rule.contains in message:
            # In a sandbox account, the address that is not verified may be a recipient's.
            recipient_named = any(recipient in message for recipient in to)
            is_recipients = rule.outcome is sender_trouble and recipient_named
            return rejected if is_recipients else rule.outcome
    return retry_blaming


def retry_alone_if_several(outcome: OutcomeBuilder, to: Sequence[str]) -> OutcomeBuilder:
    """Retry each of several entries alone, because one bad entry fails a whole bulk call."""
    return retry_alone if len(to) > 1 and outcome in {rejected, retry_blaming} else outcome


def outcome_of_status(status: str) -> ProviderOutcome:
    """Return the outcome of a bulk entry's status."""
    return STATUSES.get(status, unknown)(status)
