"""What is said to a client: a status and a body, whose texts clients match on."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import msgspec

ENCODE = msgspec.json.Encoder(uuid_format="canonical").encode
JSON = b"application/json"
RETRY_AFTER_SECONDS = 2
"""How long a client is asked to wait before it comes again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and what headers it has besides the usual ones.

    A body in `parts` is sent as it comes; one that raises Unavailable on the way breaks off. What
    is to be given back is `done` at the end, also where parts are not asked for.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = JSON
    parts: AsyncGenerator[bytes, None] | None = None
    release: Callable[[], None] | None = None


def json_answer(value: object, status: int = 200) -> Answer:
    """Give a value as JSON."""
    return Answer(status, ENCODE(value))


def error_answer(status: int, error: str, *messages: str) -> Answer:
    """Refuse, in the shape of every error that a handler raises."""
    errors = [{"error": error, "message": message} for message in dict.fromkeys(messages)]
    return json_answer({"status_code": status, "errors": errors}, status)


def bad_request(message: str) -> Answer:
    """Refuse what the schema allowed."""
    return error_answer(400, "BadRequestError", message)


def validation_error(*messages: str) -> Answer:
    """Refuse what the schema forbids."""
    return error_answer(400, "ValidationError", *messages)


def result_error(status: int, message: str, **headers: str) -> Answer:
    """Refuse in the other shape, which only a few cases have."""
    told = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return replace(json_answer({"result": "error", "message": message}, status), headers=told)


def unavailable(message: str) -> Answer:
    """Say that it is not known whether it was done, or that it cannot be; clients come again."""
    answer = error_answer(503, "ServiceUnavailableError", message)
    return replace(answer, headers=((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),))


URL_NOT_FOUND = result_error(
    404,
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again.",
)
NOTIFICATION_NOT_FOUND = result_error(404, "Notification not found in database")
NO_RESULT = error_answer(404, "NoResultFound", "No result found")
NOT_JSON = bad_request(
    "Error decoding arguments: The browser (or proxy) sent a request that this server could not "
    "understand."
)
WRONG_CONTENT_TYPE = error_answer(
    415,
    "BadRequestError",
    "UnsupportedMediaType error: Did not attempt to load JSON data because the request "
    "Content-Type was not 'application/json'.",
)
BODY_INCOMPLETE = bad_request("The request's body broke off")
BODY_TOO_SLOW = error_answer(408, "BadRequestError", "The request's body did not come in time")
REQUEST_TOO_LARGE = error_answer(
    413, "BadRequestError", "The request is larger than this server takes"
)
BUSY = unavailable("Too many requests are being answered, try again")
NOT_ACKNOWLEDGED = unavailable("The request could not be stored for certain, try again")


def method_not_allowed(*allowed: str) -> Answer:
    """Say which methods the address has."""
    return result_error(
        405, "The method is not allowed for the requested URL.", allow=", ".join(allowed)
    )
