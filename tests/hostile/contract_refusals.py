"""Every refusal that the API may answer: a run must see each of them, and no other.

The table is written from the contract, not from the product. `{}` stands for any text.
"""

from collections.abc import Sequence
from typing import Any

from hostile.contract_job_refusals import JOBS, NO_SLOT
from hostile.refusal import OTHER, Refusal, of

HEADERS_PAGE = "https://documentation.notification.canada.ca/en/start.html#headers"
KEYS_PAGE = "https://documentation.notification.canada.ca/en/keys.html"
STATUSES = (
    "[cancelled, created, sending, sent, delivered, pending, failed, technical-failure, "
    "temporary-failure, permanent-failure, provider-failure, pending-virus-check, "
    "validation-failed, virus-scan-failed, returned-letter, pii-check-failed, accepted, received]"
)

ADDRESSES = (
    *of(
        404,
        OTHER,
        "The requested URL was not found on the server. If you entered the URL manually please "
        "check your spelling and try again.",
        "Notification not found in database",
    ),
    *of(404, "NoResultFound", "No result found"),
    *of(405, OTHER, "The method is not allowed for the requested URL."),
)
BODIES = (
    *of(
        400,
        "BadRequestError",
        "Error decoding arguments: The browser (or proxy) sent a request that this server could "
        "not understand.",
        "The request's body broke off",
    ),
    *of(408, "BadRequestError", "The request's body did not come in time"),
    *of(413, "BadRequestError", "The request is larger than this server takes"),
    *of(
        415,
        "BadRequestError",
        "UnsupportedMediaType error: Did not attempt to load JSON data because the request "
        "Content-Type was not 'application/json'.",
    ),
)
CALLERS = (
    *of(
        401,
        "AuthError",
        "Unauthorized, authentication token must be provided",
        "Unauthorized, Authorization header is invalid. GC Notify supports the following "
        "authentication methods. Bearer: JWT token that the client generates and passes in, Learn "
        f"more: {HEADERS_PAGE}., ApiKey-v1: If you cannot generate a JWT token you may optionally "
        f"use the API secret generated for you by GC Notify. Learn more: {HEADERS_PAGE}.",
    ),
    *of(
        403,
        "AuthError",
        "Invalid token: signature, api token is not valid",
        "Invalid token: iss field not provided",
        "Invalid token: service id is not the right data type",
        "Invalid token: service not found",
        "Invalid token: service has no API keys",
        "Invalid token: service is archived",
        "Invalid token: signature, api token not found",
        "Error: Your system clock must be accurate to within 30 seconds",
        "Invalid token: API key revoked",
        "Invalid token: Enter your full API key",
        "Invalid token: API key not found",
    ),
    *of(403, "BadRequestError", "Service is suspended"),
)
FORMS = of(
    400,
    "ValidationError",
    "None is not of type object",
    "[] is not of type object",
    "template_id is a required property",
    "email_address is a required property",
    "phone_number is a required property",
    "Additional properties are not allowed ({} was unexpected)",
    "Additional properties are not allowed ({} were unexpected)",
    "reference {} is not of type string",
    "reference must not contain NUL characters",
    "email_address {} is not of type string",
    "phone_number {} is not of type string",
    "scheduled_for {} is not of type string, null",
    "personalisation {} is not of type object",
    "{} is not of type object",
    "template_id is not a valid UUID",
    "email_reply_to_id is not a valid UUID",
    "sms_sender_id is not a valid UUID",
    "notification_id is not a valid UUID",
    "job_id is not a valid UUID",
    "id is not a valid UUID",
    "older_than is not a valid UUID",
    "scheduled_for datetime cannot be in the past",
    "scheduled_for datetime can only be up to 96 hours in the future",
    "scheduled_for datetime format is invalid. It must be a valid ISO8601 date time format, "
    "https://en.wikipedia.org/wiki/ISO_8601",
    "email_address Not a valid email address",
    "phone_number Not a valid number",
    "phone_number Not a valid international number",
    "phone_number Not enough digits",
    "phone_number Country code {} is not supported",
    f"status {{}} is not one of {STATUSES}",
    "template_type {} is not one of [sms, email, letter]",
    "type {} is not one of [sms, email, letter]",
    "include_jobs {} is not one of [true, True, false, False]",
)
FILES = (
    *of(
        400,
        "ValidationError",
        "personalisation file is a required property",
        "personalisation filename is a required property",
        "personalisation sending_method is a required property",
        "personalisation {} is not of type string",
        "personalisation {} is not one of [attach, link]",
        "personalisation {} is too short",
        "personalisation {} is too long",
        "Personalisation variables size of {} bytes is greater than allowed limit of 51200 bytes.",
        "File number exceed allowed limits of 10 with number of {}.",
        "{} : File size for {} is {} and greater than allowed limit of 10485760.",
        "{} : Incorrect padding : Error decoding base64 field",
    ),
    *of(400, "BadRequestError", "Service is not allowed to send documents"),
)
SENDING = of(
    400,
    "BadRequestError",
    "Service is not allowed to send emails",
    "Service is not allowed to send text messages",
    "Service is not allowed to send letters",
    "Template not found",
    "sms template is not suitable for email notification",
    "email template is not suitable for sms notification",
    "Template {} has been deleted",
    "Missing personalisation for template ID {}: {}",
    "Missing personalisation: {}",
    "Content for template has a character count greater than the limit of 612",
    "Message is empty or just whitespace",
    "email_reply_to_id {} does not exist in database for service id {}",
    "sms_sender_id {} does not exist in database for service id {}",
    "Can’t send to this recipient using a team-only API key (service {}) - see "
    f"{KEYS_PAGE}#team-and-safelist",
    f"Can’t send to this recipient when service is in trial mode – see {KEYS_PAGE}#live",
    "Cannot send to international mobile numbers",
    "Idempotency-Key must have 1 to 255 characters",
) + of(
    409,
    "ConflictError",
    "Idempotency-Key has been used with another body in the last 48 hours",
)
LIMITS = (
    *of(
        429,
        "RateLimitError",
        "Exceeded rate limit for key type LIVE of {} requests per 60 seconds",
        "Exceeded rate limit for key type TEAM of {} requests per 60 seconds",
        "Exceeded rate limit for key type TEST of {} requests per 60 seconds",
    ),
    *(
        Refusal(429, f"{kind}{error}", text)
        for kind in ("LiveService", "TrialService")
        for error, text in (
            ("RequestExceedsEmailAnnualLimitError",
             "Exceeded annual email sending limit of {} messages"),
            ("RequestExceedsSMSAnnualLimitError",
             "Exceeded annual SMS sending limit of {} messages"),
            ("TooManyEmailRequestsError", "Exceeded email daily sending limit of {} messages"),
            ("TooManySMSRequestsError", "Exceeded SMS daily sending limit of {} fragments"),
        )
    ),
)  # fmt: skip
RECEIPTS = (
    *of(403, "ForbiddenError", "The receipt is not signed by whom it should be"),
    *of(400, "BadRequestError", "The heartbeat cannot be read"),
)
BUSY, NOT_YET, NOT_READABLE, NO_FILES, NO_CERTIFICATE = ALLOWED_503 = of(
    503,
    "ServiceUnavailableError",
    "Too many requests are being answered, try again",
    "The notification may be on its way, try again",
    "Notifications cannot be read now, try again",
    "error connecting to document download",
    "The receipt cannot be taken now",
)
"""The only 5xx answers that may come, and only to a request that lists them.

They report, in this order: too many requests at once, a row that is not stored yet, lists that
cannot be read now, a file or a certificate that could not be fetched.
"""

CONTRACT_REFUSALS = (
    ADDRESSES + BODIES + CALLERS + FORMS + FILES + SENDING + LIMITS + RECEIPTS + JOBS + ALLOWED_503
)  # fmt: skip

NOT_CAUSED_BY_CLIENTS = (
    "The request could not be stored for certain, try again",
    "The directory is not read yet",
    "Internal server error",
    NO_SLOT,
)
"""Refusals that no client can cause while Kafka is available; integration tests cover them."""


def refusals_in(status: int, content: Any) -> Sequence[Refusal | str]:
    """Return the contract's refusals that an answer's body contains.

    A text in the result describes an error that is not in the contract, or a body of wrong shape.
    """
    if not isinstance(content, dict):
        return [f"{status}: no object"]
    if "errors" not in content:
        return [one(status, OTHER, str(content.get("message")))]
    if content.get("status_code") != status or set(content) != {"status_code", "errors"}:
        return [f"{status}: {content}"]
    return [one(status, error["error"], error["message"]) for error in content["errors"]]


def one(status: int, error: str, text: str) -> Refusal | str:
    fitting = [refusal for refusal in CONTRACT_REFUSALS if refusal.fits(status, error, text)]
    # If several patterns fit, the longest one is the most specific.
    return max(fitting, key=lambda fit: len(fit.text), default=f"{status} {error}: {text[:300]}")
