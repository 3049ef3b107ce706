"""Receipts: forged in one part of the envelope, repeated, or valid with odd contents."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from courant_local.processes import TOPIC_ARN
from courant_sandbox.signing import CERTIFICATE_PATH, Signer
from courant_sandbox.sns import Topic
from hostile.contract_refusals import NO_CERTIFICATE
from hostile.http_request import TEXTS, Dice, HttpRequest, encoded
from hostile.malformed_json import malformed
from hostile.target import Target

PATH = "/receipts"
SNS = "https://sns.ca-central-1.amazonaws.com"
ELSEWHERE = [
    "http://127.0.0.1:1/x.pem", "https://evil.example/x.pem", "https://sns.evil.example/x.pem", "",
    "x",
    "https://sns.ca-central-1.amazonaws.com.evil.example/x.pem", "file:///etc/passwd",
    "//evil.example/x.pem",
    "https://sns.ca-central-1.amazonaws.com@evil.example/x.pem", "https://[::1]/x.pem",
    "https://[x",
    "https://sns.us-east-1.amazonaws.com/x.pem", "https://sns.ca-central-1.amazonaws.com/x.pem?y",
    "https://sns.ca-central-1.amazonaws.com:99999/x.pem",
    "https://sns.ca-central-1.amazonaws.com/a/../x", f"{SNS}/x.pem",
    f"{SNS}/SimpleNotificationService-sandbox.pem",
    "{sandbox}.evil.example/x.pem", "{sandbox}@evil.example/x.pem",
]  # fmt: skip
"""Addresses from which ingest must not fetch a certificate.

None of them is on SNS's host with the name of a certificate, because ingest would send a request to
that host.
"""
MESSAGES = ["", "x", "null", "[]", "{}", '{"eventType": 7}', '{"eventType": "Delivery"}',
            '{"mail": {"tags": []}}',
            '{"eventType": "Bounce", "mail": {"messageId": "m", "tags": {"courant": ["x"]}}}',
                                                                                     "[" * 50_000,
            '{"messageStatus": "DELIVERED", "context": {}}',
                '{"eventType": "Open", "mail": null}']  # fmt: skip


class EnvelopeWriter:
    """Writes SNS envelopes and signs them with the sandbox's own key."""

    def __init__(self, target: Target) -> None:
        self.sandbox = target.stack.plan.sandbox_url
        self.signer = Signer(target.stack.plan.home, datetime.now(UTC))
        self._topic = Topic(TOPIC_ARN, self.sandbox, self.signer, lambda: datetime.now(UTC))

    def envelope(self, message: str = "{}", version: str = "2") -> dict[str, Any]:
        """Return a valid envelope with this message."""
        body = self._topic.notification(message, version).body
        envelope: dict[str, Any] = msgspec.json.decode(body)
        return envelope

    def confirmation(self) -> dict[str, Any]:
        envelope: dict[str, Any] = msgspec.json.decode(self._topic.confirmation().body)
        return envelope

    def again(self, envelope: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """Return a changed copy of an envelope, signed again."""
        copy = {**envelope, **changed}
        return {**copy, "Signature": self.signer.sign(copy, "2")}


def forged(post: EnvelopeWriter, dice: Dice) -> bytes:
    """Return an envelope that ingest must reject."""
    true = post.envelope("{}")
    replayed = (datetime.now(UTC) - timedelta(days=24)).isoformat()
    kind = dice.number(8)
    if kind == 0:
        name = dice.one([*true.keys() - {"UnsubscribeURL"}])
        return encoded({each: value for each, value in true.items() if each != name})
    if kind == 1:
        name = dice.one(
            [
                "Message",
                "MessageId",
                "TopicArn",
                "Timestamp",
                "Type",
                "Signature",
                "SignatureVersion",
            ]
        )
        return encoded(
            {**true, name: dice.one([f"{true[name]} ", dice.value(), f"{dice.text()}.", None])}
        )
    if kind == 2:
        url = dice.one(ELSEWHERE).replace("{sandbox}", post.sandbox)
        return encoded(post.again(true, SigningCertURL=url))
    if kind == 3:
        arn = dice.one(
            [f"{TOPIC_ARN}-2", TOPIC_ARN.upper(), "", "*", TOPIC_ARN.replace("1234", "4321"), "\0"]
        )
        return encoded(post.again(true, TopicArn=arn))
    if kind == 4:
        at = dice.one([replayed, "", "now", "2026-11-25T00:00:00", "0001-01-01T00:00:00Z"])
        return encoded(post.again(true, Timestamp=at))
    if kind == 5:
        return encoded(
            {**true, "Signature": dice.one(["", "x", "=", "QUJD", dice.text() + "*", "A" * 344])}
        )
    if kind == 6:
        confirmation = post.confirmation()
        # A confirmation's SubscribeURL may be any address on SNS's own host.
        foreign = [url for url in ELSEWHERE if not url.startswith(f"{SNS}/")]
        url = dice.one(foreign).replace("{sandbox}", post.sandbox)
        return encoded(post.again(confirmation, SubscribeURL=url))
    return encoded({**true, "SignatureVersion": dice.one(["", "0", "3", "1", "2 ", 2])})


def draw(target: Target, dice: Dice, number: int) -> Iterator[HttpRequest]:
    """Yield receipts: six in ten are forged, two are malformed, two are valid and may repeat."""
    post = EnvelopeWriter(target)
    valid = [
        encoded(post.envelope(text, version)) for text in (*MESSAGES, *TEXTS) for version in "12"
    ]
    for _ in range(number):
        kind = dice.number(10)
        if kind < 6:
            yield HttpRequest(
                "POST", PATH, {"content-type": "text/plain"}, forged(post, dice), forged=True
            )
        elif kind < 8:
            # A changed byte may make the envelope name a certificate that the sandbox lacks.
            body = malformed(encoded(post.envelope("someone")), dice)
            yield HttpRequest("POST", PATH, {}, body, allowed_503=(NO_CERTIFICATE,))
        else:
            yield HttpRequest("POST", PATH, {}, dice.one(valid))
    # The signature is valid, so SNS sent it and ingest's clock must be behind: it is put off.
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ahead = encoded(post.again(post.envelope(), Timestamp=future))
    yield HttpRequest("POST", PATH, {}, ahead, allowed_503=(NO_CERTIFICATE,))
    # Ingest trusts the sandbox's own address, but the sandbox has no such certificate.
    url = f"{post.sandbox}{CERTIFICATE_PATH}".replace("sandbox", "none")
    yield HttpRequest(
        "POST",
        PATH,
        {},
        encoded({**post.envelope(), "SigningCertURL": url}),
        allowed_503=(NO_CERTIFICATE,),
    )
