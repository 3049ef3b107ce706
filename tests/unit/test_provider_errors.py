# ruff: noqa: E501  (a table is a table)
"""The outcome of a send for each answer and error. The expected outcomes are written literally."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from botocore import exceptions
from botocore.httpsession import HTTPClientError
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber
from urllib3.exceptions import SSLError as Urllib3SSLError

from courant.contracts import KeyType, Outcome
from courant.testing.builders import NOW, id_of
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    CallEntry,
    ClaimedRow,
    Deferred,
    ProviderOutcome,
    Refusal,
    Rejected,
    RenderedEmail,
    RenderedSms,
    RetryAlone,
    SenderTrouble,
    Throttled,
    Unknown,
)
from deliverer.pool import Provider
from deliverer.providers import aws
from deliverer.providers.errors import Api, outcome_of_error
from deliverer.providers.ses import Ses
from deliverer.providers.sms import EndUserMessaging, Sns

UNLUCKY = "ana@example.org"


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "ca-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def entry(number: int, message: RenderedEmail | RenderedSms) -> CallEntry:
    row = ClaimedRow(
        id_of(number), 3, 0, UUID(int=7), KeyType.NORMAL, UUID(int=9), 1, None, b"", NOW
    )  # fmt: skip
    to = UNLUCKY if isinstance(message, RenderedEmail) else "+16132532222"
    return CallEntry(row, "Us <us@example.ca>", None, to, message, 1000)


def mails(count: int) -> Call:
    mail = RenderedEmail("Subject", "text", "<p>text</p>", '{"s":"Subject"}')
    return Call(UUID(int=1), tuple(entry(number, mail) for number in range(count)))


TEXT = Call(UUID(int=1), (entry(1, RenderedSms("hello")),))


@contextmanager
def stubbed(service: str) -> Iterator[tuple[Any, Stubber]]:
    client = aws.make_client(service, 1, 1, 1)
    with Stubber(client) as stub:
        yield client, stub
    client.close()


def outcome_of(operation: str) -> Callable[..., ProviderOutcome]:
    """Return a function that sends one message and returns the outcome of an error answer."""

    def ask(code: str, http: int, message: str, reason: str | None) -> ProviderOutcome:
        providers: dict[str, tuple[str, Callable[[Any], Provider]]] = {
            "send_email": ("sesv2", lambda client: Ses(client, None)),
            "send_text_message": (
                "pinpoint-sms-voice-v2",
                lambda client: EndUserMessaging(client, None),
            ),
            "publish": ("sns", Sns),
        }
        service, provider = providers[operation]
        with stubbed(service) as (client, stub):
            stub.add_client_error(
                operation,
                code,
                message,
                http,
                modeled_fields={"Reason": reason} if reason else None,
            )
            [outcome] = provider(client).send(mails(1) if operation == "send_email" else TEXT)
            assert isinstance(outcome, ProviderOutcome)
            return outcome

    return ask


SES, SMS, SNS = "send_email", "send_text_message", "publish"
DAILY = "Daily message quota exceeded."
FAST = "Maximum sending rate exceeded."
OPTED = "Phone number is opted out"
UNSUPPORTED = Outcome.UNSUPPORTED


def own(reason: str, outcome: Outcome = Outcome.REJECTED, *, names: bool = False) -> Refusal:
    """Return a refusal that ends the message once it is proven to be its own fault."""
    return Refusal(Rejected(reason, outcome), names)


def blaming(reason: str) -> Refusal:
    return Refusal(Deferred(reason, blames=True))


UNVERIFIED = (
    "Email address is not verified. The following identities failed the check in region "
    "CA-CENTRAL-1: us@example.ca"
)
PAUSED = "Sending paused for this account. For more information, please check the inbox of the email address associated with your AWS account."


@pytest.mark.parametrize(("operation", "code", "http", "message", "reason", "expected"), [
    (SES, "TooManyRequestsException", 429, DAILY, None, AccountTrouble),
    (SES, "TooManyRequestsException", 429, FAST, None, Throttled),
    (SES, "TooManyRequestsException", 429, "something new", None, Throttled),
    (SES, "ThrottlingException", 400, FAST, None, Throttled),
    (SES, "Throttling", 400, FAST, None, Throttled),
    (SES, "429", 429, "", None, Throttled),
    (SES, "LimitExceededException", 400, DAILY, None, AccountTrouble),
    (SES, "AccountSuspendedException", 400, "", None, AccountTrouble),
    (SES, "SendingPausedException", 400, "", None, AccountTrouble),
    (SES, "MailFromDomainNotVerifiedException", 400, "", None, SenderTrouble("MailFromDomainNotVerifiedException")),
    (SES, "NotFoundException", 404, "Configuration set <x> does not exist.", None, AccountTrouble),
    (SES, "MessageRejected", 400, "Email address is not verified. The following: us@example.ca", None, SenderTrouble("MessageRejected")),
    (SES, "MessageRejected", 400, f"Email address is not verified. The following: {UNLUCKY}", None, own("MessageRejected", names=True)),
    (SES, "MessageRejected", 400, "Illegal content", None, own("MessageRejected")),
    (SES, "MessageRejected", 400, UNVERIFIED, None, SenderTrouble("MessageRejected")),
    (SES, "MessageRejected", 400, PAUSED, None, AccountTrouble("MessageRejected")),
    (SES, "AccessDeniedException", 403, "User is not authorized to perform ses:SendEmail on resource `arn:aws:ses:ca-central-1:1:identity/x`", None, SenderTrouble),
    (SES, "BadRequestException", 400, "Missing final '@domain'", None, own("BadRequestException", names=True)),
    (SES, "RequestTimeTooSkewed", 400, "", None, AccountTrouble),
    (SES, "IncompleteSignature", 400, "", None, AccountTrouble),
    (SES, "OptInRequired", 400, "", None, AccountTrouble),
    (SES, "SubscriptionRequiredException", 400, "", None, AccountTrouble),
    (SES, "403", 403, "", None, AccountTrouble),
    (SES, "404", 404, "", None, AccountTrouble),
    (SES, "407", 407, "", None, AccountTrouble),
    (SES, "AccessDeniedException", 403, "", None, AccountTrouble),
    (SES, "AccessDenied", 403, "", None, AccountTrouble),
    (SES, "UnrecognizedClientException", 403, "", None, AccountTrouble),
    (SES, "ExpiredToken", 400, "", None, AccountTrouble),
    (SES, "ExpiredTokenException", 403, "", None, AccountTrouble),
    (SES, "InvalidSignatureException", 403, "", None, AccountTrouble),
    (SES, "SignatureDoesNotMatch", 403, "", None, AccountTrouble),
    (SES, "MissingAuthenticationToken", 403, "", None, AccountTrouble),
    (SES, "ConflictException", 409, "", None, blaming("ConflictException")),
    (SES, "418", 418, "", None, blaming("418")),
    (SES, "InternalFailure", 500, "", None, Unknown("HTTP 500")),
    (SES, "TooManyRequestsException", 503, FAST, None, Unknown("HTTP 503")),
    (SMS, "ThrottlingException", 400, "", None, Throttled),
    (SMS, "ServiceQuotaExceededException", 400, "", "MONTHLY_SPEND_LIMIT_REACHED_FOR_TEXT", AccountTrouble),
    (SMS, "ServiceQuotaExceededException", 400, "", "MESSAGES_PER_DAY", AccountTrouble),
    (SMS, "AccessDeniedException", 400, "", "ACCOUNT_DISABLED", AccountTrouble),
    (SMS, "AccessDeniedException", 400, "", None, AccountTrouble),
    (SMS, "ConflictException", 400, "", "DESTINATION_PHONE_NUMBER_OPTED_OUT",
     Rejected("DESTINATION_PHONE_NUMBER_OPTED_OUT", Outcome.UNSENDABLE, OPTED)),
    (SMS, "ConflictException", 400, "", "NO_ORIGINATION_IDENTITIES_FOUND", own("NO_ORIGINATION_IDENTITIES_FOUND", UNSUPPORTED)),
    (SMS, "ConflictException", 400, "", "DESTINATION_PHONE_NUMBER_NOT_VERIFIED", own("DESTINATION_PHONE_NUMBER_NOT_VERIFIED", UNSUPPORTED, names=True)),
    (SMS, "ConflictException", 400, "", "DESTINATION_COUNTRY_BLOCKED_BY_PROTECT_CONFIGURATION",
     own("DESTINATION_COUNTRY_BLOCKED_BY_PROTECT_CONFIGURATION", UNSUPPORTED, names=True)),
    (SMS, "ValidationException", 400, "", "PRICE_OVER_THRESHOLD", own("PRICE_OVER_THRESHOLD", UNSUPPORTED, names=True)),
    (SMS, "ValidationException", 400, "", "DESTINATION_COUNTRY_BLOCKED", own("DESTINATION_COUNTRY_BLOCKED", UNSUPPORTED, names=True)),
    (SMS, "ResourceNotFoundException", 400, "", None, SenderTrouble),
    (SMS, "InternalServerException", 500, "", None, Unknown("HTTP 500")),
    (SNS, "InvalidParameter", 400, "x is not valid to publish to", None, own("InvalidParameter", names=True)),
    (SNS, "InvalidParameter", 400, "Invalid parameter: SenderID Reason: x", None, SenderTrouble),
    (SNS, "ParameterValueInvalid", 400, "", None, own("ParameterValueInvalid")),
    (SNS, "ValidationException", 400, "", None, own("ValidationException")),
    (SNS, "ValidationError", 400, "", None, own("ValidationError")),
    (SNS, "Throttling", 400, "", None, Throttled),
    (SNS, "ThrottlingException", 400, "", None, Throttled),
    (SNS, "AuthorizationError", 403, "", None, AccountTrouble),
    (SNS, "InvalidSecurity", 403, "", None, AccountTrouble),
    (SNS, "InvalidClientTokenId", 403, "", None, AccountTrouble),
    (SNS, "SignatureDoesNotMatch", 403, "", None, AccountTrouble),
    (SNS, "OptInRequired", 403, "", None, AccountTrouble),
    (SNS, "KMSDisabled", 400, "", None, AccountTrouble),
    (SNS, "InternalError", 500, "", None, Unknown("HTTP 500")),
])  # fmt: skip
def test_an_error_answer_is_what_the_table_says(
    operation: str,
    code: str,
    http: int,
    message: str,
    reason: str | None,
    expected: ProviderOutcome | type,
) -> None:
    outcome = outcome_of(operation)(code, http, message, reason)
    assert outcome == expected if not isinstance(expected, type) else type(outcome) is expected
    assert UNLUCKY not in str(outcome)
    assert "us@example.ca" not in str(outcome)


def sts_error(code: str, http: int) -> exceptions.ClientError:
    """Return an error of the call that fetches credentials, which botocore makes inside of ours."""
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": http}}
    return exceptions.ClientError(answer, "AssumeRoleWithWebIdentity")


URL = {"endpoint_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ParamValidationError(report="x"), Refusal),
        (exceptions.NoCredentialsError(), AccountTrouble),
        (exceptions.CredentialRetrievalError(provider="x", error_msg="y"), AccountTrouble),
        (exceptions.MetadataRetrievalError(error_msg="y"), AccountTrouble),
        (exceptions.UnauthorizedSSOTokenError(), AccountTrouble),
        (sts_error("InvalidIdentityToken", 400), AccountTrouble),
        (sts_error("InternalFailure", 500), AccountTrouble),
        (exceptions.EndpointConnectionError(error="refused", **URL), AccountTrouble),
        (exceptions.ConnectTimeoutError(error="late", **URL), AccountTrouble),
        (
            exceptions.ProxyConnectionError(proxy_url="http://127.0.0.1:1", error="refused"),
            AccountTrouble,
        ),
        (
            exceptions.SSLError(error=Urllib3SSLError("certificate verify failed"), **URL),
            AccountTrouble,
        ),
        (exceptions.SSLError(error=Urllib3SSLError("bad handshake"), **URL), AccountTrouble),
        (exceptions.SSLError(error=Urllib3SSLError("record layer failure"), **URL), Unknown),
        (exceptions.ReadTimeoutError(error="late", **URL), Unknown),
        (exceptions.ConnectionClosedError(error="cut", **URL), Unknown),
        (exceptions.ResponseStreamingError(error="cut"), Unknown),
        (HTTPClientError(error="?"), Unknown),
        (ResponseParserError("?"), Unknown),
        (KeyError("PublishResult"), Unknown),
        (RuntimeError("?"), Unknown),
    ],
)
def test_an_exception_is_unknown_unless_certainly_nothing_was_sent(
    error: Exception, expected: type
) -> None:
    for api in Api:
        assert type(outcome_of_error(api, error, [UNLUCKY])) is expected


def bulk(stub: Stubber, *results: dict[str, str]) -> None:
    stub.add_response("send_bulk_email", {"BulkEmailEntryResults": list(results)})


def test_each_entry_of_a_bulk_call_has_its_own_outcome_in_order() -> None:
    with stubbed("sesv2") as (client, stub):
        bulk(stub, {"Status": "SUCCESS", "MessageId": "m-1"}, {"Status": "MESSAGE_REJECTED"})
        outcomes = Ses(client, None).send(mails(2))
    assert outcomes == [Accepted("m-1"), own("MESSAGE_REJECTED")]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("MESSAGE_REJECTED", Refusal),
        ("INVALID_PARAMETER", Refusal),
        ("TRANSIENT_FAILURE", Deferred),
        ("ACCOUNT_THROTTLED", Throttled),
        ("ACCOUNT_SUSPENDED", AccountTrouble),
        ("ACCOUNT_SENDING_PAUSED", AccountTrouble),
        ("ACCOUNT_DAILY_QUOTA_EXCEEDED", AccountTrouble),
        ("CONFIGURATION_SET_SENDING_PAUSED", AccountTrouble),
        ("CONFIGURATION_SET_NOT_FOUND", AccountTrouble),
        ("TEMPLATE_NOT_FOUND", AccountTrouble),
        ("MAIL_FROM_DOMAIN_NOT_VERIFIED", SenderTrouble),
        ("INVALID_SENDING_POOL_NAME", AccountTrouble),
        ("FAILED", Refusal),
        ("SOMETHING_NEW", Unknown),
    ],
)
def test_a_bulk_entrys_status_is_what_the_table_says(status: str, expected: type) -> None:
    with stubbed("sesv2") as (client, stub):
        bulk(stub, {"Status": status}, {"Status": "SUCCESS", "MessageId": "m"})
        outcomes = Ses(client, None).send(mails(2))
    assert [type(outcome) for outcome in outcomes] == [expected, Accepted]


@pytest.mark.parametrize(
    "results",
    [[], [{"Status": "SUCCESS", "MessageId": "m"}], [{"Status": "SUCCESS", "MessageId": "m"}] * 3],
)
def test_a_bulk_answer_of_another_length_is_unknown_for_all(results: list[dict[str, str]]) -> None:
    with stubbed("sesv2") as (client, stub):
        bulk(stub, *results)
        outcomes = Ses(client, None).send(mails(2))
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]


def test_a_success_without_a_message_id_is_unknown() -> None:
    with stubbed("sesv2") as (client, stub):
        bulk(stub, {"Status": "SUCCESS"}, {"Status": "SUCCESS", "MessageId": "m"})
        stub.add_response("send_email", {})
        ses = Ses(client, None)
        assert [type(each) for each in ses.send(mails(2))] == [Unknown, Accepted]
        assert [type(each) for each in ses.send(mails(1))] == [Unknown]


@pytest.mark.parametrize(
    ("kind", "expected"), [("sender-id", SenderTrouble), ("configuration-set", AccountTrouble)]
)
def test_a_missing_resource_stops_its_sender_or_the_account(kind: str, expected: type) -> None:
    with stubbed("pinpoint-sms-voice-v2") as (client, stub):
        stub.add_client_error(
            "send_text_message",
            "ResourceNotFoundException",
            "",
            400,
            modeled_fields={"ResourceType": kind, "ResourceId": "x"},
        )
        [outcome] = EndUserMessaging(client, None).send(TEXT)
    assert isinstance(outcome, expected)


@pytest.mark.parametrize("code", ["BadRequestException", "MessageRejected", "SomethingNew"])
def test_the_entries_of_a_bulk_call_rejected_for_its_content_are_retried_alone(code: str) -> None:
    with stubbed("sesv2") as (client, stub):
        stub.add_client_error("send_bulk_email", code, "one of them", 400)
        outcomes = Ses(client, None).send(mails(3))
    assert outcomes == [RetryAlone(code)] * 3


def test_a_bulk_call_rejected_for_its_account_is_not_split() -> None:
    with stubbed("sesv2") as (client, stub):
        stub.add_client_error("send_bulk_email", "AccountSuspendedException", "", 400)
        stub.add_client_error("send_bulk_email", "TooManyRequestsException", FAST, 429)
        ses = Ses(client, None)
        assert [type(each) for each in ses.send(mails(2))] == [AccountTrouble, AccountTrouble]
        assert [type(each) for each in ses.send(mails(2))] == [Throttled, Throttled]


def test_every_message_carries_our_tags() -> None:
    tags = [
        {"Name": "courant_id", "Value": str(id_of(0))},
        {"Name": "courant_attempt", "Value": "3"},
    ]
    requests: list[dict[str, Any]] = []
    with stubbed("sesv2") as (client, stub):
        client.meta.events.register(
            "provide-client-params.sesv2.*", lambda params, **_: requests.append(params)
        )
        bulk(stub, *[{"Status": "SUCCESS", "MessageId": "m"}] * 2)
        stub.add_response("send_email", {"MessageId": "m"})
        ses = Ses(client, "receipts")
        ses.send(mails(2))
        ses.send(mails(1))
    assert requests[0]["BulkEmailEntries"][0]["ReplacementTags"] == tags
    assert requests[1]["EmailTags"] == tags
    assert [request["ConfigurationSetName"] for request in requests] == ["receipts"] * 2


def test_the_client_makes_one_attempt_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    client = aws.make_client("sesv2", 12, 2, 8)
    config = client.meta.config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (2, 8)
    assert config.max_pool_connections == 12
    client.close()
