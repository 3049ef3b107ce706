"""Answers to clients: a status, and a body whose texts clients match on."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import msgspec

ENCODE = msgspec.json.Encoder(uuid_format="canonical").encode
JSON = b"application/json"
RETRY_AFTER_SECONDS = 2
"""How long a 503 asks the client to wait before it retries."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and the headers that it has besides the usual ones.

    A body in `parts` is streamed. If `parts` raises Unavailable, the body stays incomplete.
    `release` is called once the answer is sent, even if its parts were not read (HEAD).
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = JSON
    parts: AsyncGenerator[bytes, None] | None = None
    release: Callable[[], None] | None = None


def json_answer(value: object, status: int = 200) -> Answer:
    """Return an answer with this value as JSON."""
    return Answer(status, ENCODE(value))


def error_answer(status: int, error: str, *messages: str) -> Answer:
    """Return an error in the usual shape, with each distinct message once."""
    errors = [{"error": error, "message": message} for message in dict.fromkeys(messages)]
    return json_answer({"status_code": status, "errors": errors}, status)


def bad_request(message: str) -> Answer:
    """Return the 400 for a request that the schema allows and another check rejects."""
    return error_answer(400, "BadRequestError", message)


def validation_error(*messages: str) -> Answer:
    """Return the 400 for a request that the schema rejects."""
    return error_answer(400, "ValidationError", *messages)


def result_error(status: int, message: str, **headers: str) -> Answer:
    """Return an error in the other shape, which the contract has for 404 and 405 alone."""
    encoded = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return replace(json_answer({"result": "error", "message": message}, status), headers=encoded)


def unavailable(message: str) -> Answer:
    """Return a 503 with retry-after: the request cannot be served now, or may not be stored."""
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
    """Return the 405 that lists the methods of the path."""
    return result_error(
        405, "The method is not allowed for the requested URL.", allow=", ".join(allowed)
    )
