"""The SNS side of a receipt: envelope, headers, and the subscription that must be confirmed."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import uuid4

import msgspec

from courant_sandbox.events import timestamp
from courant_sandbox.signing import CERTIFICATE_PATH, Signer

Type = Literal["Notification", "SubscriptionConfirmation"]


@dataclass(frozen=True, slots=True)
class Post:
    """One request to the receiver. A retry sends the same bytes under the same message id."""

    headers: dict[str, str]
    body: bytes


class Topic:
    """A topic with one subscription, as the receiver sees it."""

    def __init__(self, arn: str, address: str, signer: Signer, now: Callable[[], datetime]) -> None:
        self.arn = arn
        self.subscription_arn = f"{arn}:{uuid4()}"
        self.confirmed = asyncio.Event()
        self._address = address
        self._signer = signer
        self._now = now
        self._token = secrets.token_hex(32)

    def confirm(self, arn: str, token: str) -> bool:
        """Accept the answer to a SubscriptionConfirmation; return whether its token was right."""
        if arn != self.arn or not secrets.compare_digest(token.encode(), self._token.encode()):
            return False
        self.confirmed.set()
        return True

    def confirmation(self) -> Post:
        query = f"Action=ConfirmSubscription&TopicArn={self.arn}&Token={self._token}"
        return self._post(
            "SubscriptionConfirmation",
            {
                "Message": f"You have chosen to subscribe to the topic {self.arn}.\n"
                "To confirm the subscription, visit the SubscribeURL included in this message.",
                "Token": self._token,
                "SubscribeURL": f"{self._address}/?{query}",
            },
            "2",
        )

    def notification(self, message: str, version: str) -> Post:
        query = f"Action=Unsubscribe&SubscriptionArn={self.subscription_arn}"
        more = {"Message": message, "UnsubscribeURL": f"{self._address}/?{query}"}
        return self._post("Notification", more, version)

    def _post(self, type_: Type, more: dict[str, str], version: str) -> Post:
        envelope = {
            "Type": type_,
            "MessageId": str(uuid4()),
            "TopicArn": self.arn,
            "Timestamp": timestamp(self._now()),
            "SignatureVersion": version,
            "SigningCertURL": f"{self._address}{CERTIFICATE_PATH}",
            **more,
        }
        envelope["Signature"] = self._signer.sign(envelope, version)
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "User-Agent": "Amazon Simple Notification Service Agent",
            "x-amz-sns-message-type": type_,
            "x-amz-sns-message-id": envelope["MessageId"],
            "x-amz-sns-topic-arn": self.arn,
        }
        if type_ == "Notification":
            headers["x-amz-sns-subscription-arn"] = self.subscription_arn
        return Post(headers, msgspec.json.encode(envelope))
