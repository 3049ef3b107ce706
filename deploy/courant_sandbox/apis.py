"""The calls that the sandbox answers, each with its parser, its errors and its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from courant_sandbox import ses, sms
from courant_sandbox.messages import Channel, Draft, Refused, Reply, Result


@dataclass(frozen=True, slots=True)
class Api:
    """One call. `throttled`, `broken` and `rejected` are the API's error code and HTTP status."""

    name: str
    channel: Channel
    read: Callable[[bytes], list[Draft]]
    accepted: Callable[[Sequence[Result]], Reply]
    refused: Callable[[Refused], Reply]
    throttled: tuple[str, int]
    broken: tuple[str, int] = ("InternalFailure", 500)
    rejected: tuple[str, int] = ("MessageRejected", 400)
    entries_have_status: bool = False
    gives_receipts: bool = True
    refuses_opted_out: bool = False


SEND_EMAIL = Api(
    "SendEmail",
    Channel.EMAIL,
    ses.read_send_email,
    ses.accepted,
    ses.refused,
    throttled=("TooManyRequestsException", 429),
)
SEND_BULK_EMAIL = Api(
    "SendBulkEmail",
    Channel.EMAIL,
    ses.read_send_bulk_email,
    ses.accepted_bulk,
    ses.refused,
    throttled=("TooManyRequestsException", 429),
    entries_have_status=True,
)
SEND_TEXT_MESSAGE = Api(
    "SendTextMessage",
    Channel.SMS,
    sms.read_send_text,
    sms.accepted_text,
    sms.refused_text,
    throttled=("ThrottlingException", 400),
    broken=("InternalServerException", 500),
    rejected=("ValidationException", 400),
    refuses_opted_out=True,
)
PUBLISH = Api(
    "Publish",
    Channel.SMS,
    sms.read_publish,
    sms.accepted_publish,
    sms.refused_publish,
    throttled=("Throttling", 400),
    broken=("InternalError", 500),
    rejected=("InvalidParameter", 400),
    gives_receipts=False,
)
APIS = (SEND_EMAIL, SEND_BULK_EMAIL, SEND_TEXT_MESSAGE, PUBLISH)
