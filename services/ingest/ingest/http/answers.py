"""What is said to a client: a status and a body, whose texts clients match on."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import msgspec

ENCODE = msgspec.json.Encoder(uuid_format="canonical").encode
JSON = b"application/json"
CALM_SECONDS = 2
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
    kind: bytes = JSON
    parts: AsyncGenerator[bytes, None] | None = None
    done: Callable[[], None] | None = None


def given(value: object, status: int = 200) -> Answer:
    """Give a value as JSON."""
    return Answer(status, ENCODE(value))


def refused(status: int, error: str, *messages: str) -> Answer:
    """Refuse, in the shape of every error that a handler raises."""
    errors = [{"error": error, "message": message} for message in dict.fromkeys(messages)]
    return given({"status_code": status, "errors": errors}, status)


def bad(message: str) -> Answer:
    """Refuse what the schema allowed."""
    return refused(400, "BadRequestError", message)


def invalid(*messages: str) -> Answer:
    """Refuse what the schema forbids."""
    return refused(400, "ValidationError", *messages)


def other(status: int, message: str, **headers: str) -> Answer:
    """Refuse in the other shape, which only a few cases have."""
    told = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return replace(given({"result": "error", "message": message}, status), headers=told)


def unavailable(message: str) -> Answer:
    """Say that it is not known whether it was done, or that it cannot be; clients come again."""
    answer = refused(503, "ServiceUnavailableError", message)
    return replace(answer, headers=((b"retry-after", b"%d" % CALM_SECONDS),))


NO_ADDRESS = other(
    404,
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again.",
)
NO_NOTIFICATION = other(404, "Notification not found in database")
NO_RESULT = refused(404, "NoResultFound", "No result found")
NOT_JSON = bad(
    "Error decoding arguments: The browser (or proxy) sent a request that this server could not "
    "understand."
)
NOT_CALLED_JSON = refused(
    415,
    "BadRequestError",
    "UnsupportedMediaType error: Did not attempt to load JSON data because the request "
    "Content-Type was not 'application/json'.",
)
NOT_WHOLE = bad("The request's body broke off")
TOO_SLOW = refused(408, "BadRequestError", "The request's body did not come in time")
TOO_LARGE = refused(413, "BadRequestError", "The request is larger than this server takes")
BUSY = unavailable("Too many requests are being answered, try again")
NOT_ACKNOWLEDGED = unavailable("The request could not be stored for certain, try again")


def no_such_method(*allowed: str) -> Answer:
    """Say which methods the address has."""
    return other(405, "The method is not allowed for the requested URL.", allow=", ".join(allowed))
