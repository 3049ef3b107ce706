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
    Refusal,
    Rejected,
    RetryAlone,
    SenderTrouble,
    Throttled,
    Unknown,
)


class Api(Enum):
    """The API that returned the answer."""

    SES = "ses"
    SMS = "end-user-messaging"
    SNS = "sns"


OutcomeBuilder: TypeAlias = Callable[[str], ProviderOutcome]
OPTED_OUT = "Phone number is opted out"  # the text that our API promises


def throttled(reason: str) -> ProviderOutcome:
    return Throttled(reason)


def account_trouble(reason: str) -> ProviderOutcome:
    return AccountTrouble(reason)


def sender_trouble(reason: str) -> ProviderOutcome:
    return SenderTrouble(reason)


def rejected(reason: str) -> ProviderOutcome:
    return Refusal(Rejected(reason))


def bad_recipient(reason: str) -> ProviderOutcome:
    return Refusal(Rejected(reason), names_recipient=True)


def retry_alone(reason: str) -> ProviderOutcome:
    return RetryAlone(reason)


def unsupported(reason: str) -> ProviderOutcome:
    return Refusal(Rejected(reason, Outcome.UNSUPPORTED))


def unsupported_recipient(reason: str) -> ProviderOutcome:
    return Refusal(Rejected(reason, Outcome.UNSUPPORTED), names_recipient=True)


def opted_out(reason: str) -> ProviderOutcome:
    # What one person asked for is no fault of ours, so it needs no proof.
    return Rejected(reason, Outcome.UNSENDABLE, OPTED_OUT)


def retry_blaming(reason: str) -> ProviderOutcome:
    return Refusal(Deferred(reason, blames=True))


def retry_once(reason: str) -> ProviderOutcome:
    return Refusal(Deferred(reason, blames=True, tries_max=2, final_outcome=Outcome.REJECTED))


def retry_unblamed(reason: str) -> ProviderOutcome:
    return Deferred(reason, retry_after=timedelta(seconds=10))


def unknown(reason: str) -> ProviderOutcome:
    return Unknown(reason)


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """The outcome for some error codes of an API (None: of any); the first matching rule counts.

    `contains` matches a part of the message, in any case of letters, or the whole Reason or
    ResourceType (End User Messaging).
    """

    api: Api | None
    codes: str
    contains: str
    outcome: OutcomeBuilder


ANY = ""
CREDENTIALS = (
    "AccessDenied AccessDeniedException UnrecognizedClientException UnrecognizedClient "
    "ExpiredToken ExpiredTokenException InvalidSignatureException InvalidSignature "
    "SignatureDoesNotMatch IncompleteSignature IncompleteSignatureException "
    "MissingAuthenticationToken MissingAuthenticationTokenException InvalidClientTokenId "
    "InvalidAccessKeyId InvalidToken InvalidIdentityToken IDPCommunicationError "
    "IDPRejectedClaim AuthFailure AuthorizationError NotAuthorized NotAuthorizedException "
    "UnauthorizedOperation RequestTimeTooSkewed RequestExpired RequestExpiredException "
    "OptInRequired SubscriptionRequiredException PendingVerification AccountDisabled"
)
ENDPOINT_STATUSES = frozenset({401, 403, 404, 405, 407})
"""Statuses of a proxy, an IAM policy or a wrong address. None of them is about a message."""
OPERATIONS = frozenset({"SendEmail", "SendBulkEmail", "SendTextMessage", "Publish"})
"""Our own calls. An error of any other comes from fetching credentials, before the call."""
THROTTLE_CODES = "TooManyRequestsException ThrottlingException Throttling 429"
KMS = "KMSDisabled KMSInvalidState KMSNotFound KMSOptInRequired KMSThrottling KMSAccessDenied"
INVALID = "InvalidParameter ParameterValueInvalid ValidationException ValidationError"
SES_STOPPED = "LimitExceededException AccountSuspendedException SendingPausedException"
SMS_STOPPED = "ServiceQuotaExceededException AccessDeniedException"
REFUSED = "MessageRejected BadRequestException"
SMS_REFUSED = "ConflictException ValidationException"
RECIPIENTS = (
    "DESTINATION_COUNTRY_BLOCKED_BY_PROTECT_CONFIGURATION",
    "DESTINATION_PHONE_NUMBER_BLOCKED_BY_PROTECT_NUMBER_OVERRIDE",
    "DESTINATION_PHONE_NUMBER_NOT_VERIFIED",
    "DESTINATION_COUNTRY_BLOCKED",
    "PRICE_OVER_THRESHOLD",
)
"""Reasons of End User Messaging that are about the recipient's number or country."""
# fmt: off
ERRORS = (
    ErrorRule(Api.SES, THROTTLE_CODES, "Daily message quota", account_trouble),
    ErrorRule(Api.SES, THROTTLE_CODES, ANY, throttled),
    ErrorRule(Api.SES, SES_STOPPED, ANY, account_trouble),
    ErrorRule(Api.SES, "AccessDenied AccessDeniedException", ":identity/", sender_trouble),
    ErrorRule(Api.SES, "MailFromDomainNotVerifiedException", ANY, sender_trouble),
    ErrorRule(Api.SES, "NotFoundException", ANY, account_trouble),
    ErrorRule(Api.SES, REFUSED, "is not verified", sender_trouble),
    ErrorRule(Api.SES, REFUSED, "are not verified", sender_trouble),
    ErrorRule(Api.SES, REFUSED, "failed the check", sender_trouble),
    ErrorRule(Api.SES, REFUSED, "sending paused", account_trouble),
    ErrorRule(Api.SES, REFUSED, "sending suspended", account_trouble),
    ErrorRule(Api.SES, REFUSED, "account is", account_trouble),
    ErrorRule(Api.SES, REFUSED, "message quota exceeded", account_trouble),
    ErrorRule(Api.SES, REFUSED, "Missing final '@domain'", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Illegal address", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Local address contains", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Domain contains", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Domain starts with", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Domain ends with", bad_recipient),
    ErrorRule(Api.SES, REFUSED, "Address blacklisted", bad_recipient),
    ErrorRule(Api.SES, REFUSED, ANY, rejected),
    ErrorRule(Api.SMS, "ThrottlingException", ANY, throttled),
    ErrorRule(Api.SMS, "AccessDeniedException", ":phone-number/", sender_trouble),
    ErrorRule(Api.SMS, "AccessDeniedException", ":sender-id/", sender_trouble),
    ErrorRule(Api.SMS, "AccessDeniedException", ":pool/", sender_trouble),
    ErrorRule(Api.SMS, SMS_STOPPED, ANY, account_trouble),
    ErrorRule(Api.SMS, "ResourceNotFoundException", "configuration-set", account_trouble),
    ErrorRule(Api.SMS, "ResourceNotFoundException", ANY, sender_trouble),
    ErrorRule(Api.SMS, "ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", opted_out),
    *(ErrorRule(Api.SMS, SMS_REFUSED, reason, unsupported_recipient) for reason in RECIPIENTS),
    ErrorRule(Api.SMS, SMS_REFUSED, ANY, unsupported),
    ErrorRule(Api.SNS, "Throttling ThrottlingException", ANY, throttled),
    ErrorRule(Api.SNS, INVALID, "is not valid to publish to", bad_recipient),
    ErrorRule(Api.SNS, INVALID, "SenderID", sender_trouble),
    ErrorRule(Api.SNS, INVALID, "OriginationNumber", sender_trouble),
    ErrorRule(Api.SNS, INVALID, ANY, rejected),
    ErrorRule(Api.SNS, "InvalidSecurity", ANY, account_trouble),
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
    (botocore.CredentialRetrievalError, account_trouble),
    (botocore.MetadataRetrievalError, account_trouble),
    (botocore.TokenRetrievalError, account_trouble),
    (botocore.SSOError, account_trouble),
    (botocore.NoAuthTokenError, account_trouble),
    (botocore.ProfileNotFound, account_trouble),
    (botocore.ConfigNotFound, account_trouble),
    (botocore.UnknownCredentialError, account_trouble),
    (botocore.RefreshWithMFAUnsupportedError, account_trouble),
    (botocore.InvalidIMDSEndpointError, account_trouble),
    (botocore.EndpointProviderError, account_trouble),
    (botocore.NoRegionError, account_trouble),
    (botocore.EndpointConnectionError, account_trouble),
    (botocore.ConnectTimeoutError, account_trouble),
    (botocore.ProxyConnectionError, account_trouble),
)
HANDSHAKE_WORDS = ("certificate", "handshake")


def outcome_of_error(api: Api, error: Exception, to: Sequence[str]) -> ProviderOutcome:
    """Return the outcome of a call to these recipients that raised an exception."""
    if isinstance(error, botocore.ClientError):
        if error.operation_name not in OPERATIONS:
            return AccountTrouble(code_of(error.response))
        return outcome_of_answer(api, error.response, to)
    for kind, outcome in NOT_SENT:
        if isinstance(error, kind):
            return retry_alone_if_several(outcome(kind.__name__), to)
    if isinstance(error, botocore.SSLError) and any(
        word in str(error).lower() for word in HANDSHAKE_WORDS
    ):
        return account_trouble("SSLError")
    return Unknown(type(error).__name__)


def outcome_of_answer(api: Api, response: Mapping[str, Any], to: Sequence[str]) -> ProviderOutcome:
    """Return the outcome of an error answer: 4xx by the table, 5xx is unknown whatever its code."""
    code = code_of(response)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if not 400 <= status < 500:
        return Unknown(f"HTTP {status}")
    reason = str(response.get("Reason") or code) if api is Api.SMS else code
    outcome = outcome_builder(api, code, response, to) or (
        account_trouble if status in ENDPOINT_STATUSES else retry_blaming
    )
    return retry_alone_if_several(outcome(reason), to)


def code_of(response: Mapping[str, Any]) -> str:
    """Return the code of an error answer."""
    return str(response.get("Error", {}).get("Code", ""))


def outcome_builder(
    api: Api, code: str, response: Mapping[str, Any], to: Sequence[str]
) -> OutcomeBuilder | None:
    """Find the first matching rule's outcome; None if the table has no such error."""
    message = str(response.get("Error", {}).get("Message", ""))
    words = {response.get("Reason"), response.get("ResourceType")}
    for rule in ERRORS:
        if rule.api not in {api, None} or code not in rule.codes.split():
            continue
        in_message = rule.contains.lower() in message.lower()
        if not rule.contains or rule.contains in words or in_message:
            # In a sandbox account, the address that is not verified may be a recipient's.
            recipient_named = any(recipient in message for recipient in to)
            is_recipients = rule.outcome is sender_trouble and recipient_named
            return bad_recipient if is_recipients else rule.outcome
    return None


def retry_alone_if_several(outcome: ProviderOutcome, to: Sequence[str]) -> ProviderOutcome:
    """Retry each of several entries alone, because one bad entry fails a whole bulk call."""
    if len(to) > 1 and isinstance(outcome, Refusal):
        return RetryAlone(outcome.reason)
    return outcome


def outcome_of_status(status: str) -> ProviderOutcome:
    """Return the outcome of a bulk entry's status."""
    return STATUSES.get(status, unknown)(status)
