"""Receipts: forged in every part of the envelope, repeated, and true ones that say odd things."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from courant_local.processes import TOPIC_ARN
from courant_sandbox.envelopes import Topic
from courant_sandbox.signing import CERTIFICATE_PATH, Signer
from hostile.asks import TEXTS, Ask, Dice, encoded
from hostile.place import Place
from hostile.promised import NO_CERTIFICATE
from hostile.spoiling import spoilt

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
    "https://sns.ca-central-1.amazonaws.com/a/../x",
    "{sandbox}.evil.example/x.pem", "{sandbox}@evil.example/x.pem",
]  # fmt: skip
"""Where no certificate may be fetched from. None of them is on SNS's host and well formed: that one
would be asked for, outside of this machine."""
MESSAGES = ["", "x", "null", "[]", "{}", '{"eventType": 7}', '{"eventType": "Delivery"}',
            '{"mail": {"tags": []}}',
            '{"eventType": "Bounce", "mail": {"messageId": "m", "tags": {"courant": ["x"]}}}',
                                                                                     "[" * 50_000,
            '{"messageStatus": "DELIVERED", "context": {}}',
                '{"eventType": "Open", "mail": null}']  # fmt: skip


class Post:
    """Writes envelopes, signed by the sandbox's own key and yet to be spoilt."""

    def __init__(self, place: Place) -> None:
        self.sandbox = place.stack.plan.sandbox_url
        self.signer = Signer(place.stack.plan.home, datetime.now(UTC))
        self._topic = Topic(TOPIC_ARN, self.sandbox, self.signer, lambda: datetime.now(UTC))

    def envelope(self, message: str = "{}", version: str = "2") -> dict[str, Any]:
        """Give a true one."""
        found: dict[str, Any] = msgspec.json.decode(self._topic.notification(message, version).body)
        return found

    def confirmation(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self._topic.confirmation().body)
        return found

    def again(self, envelope: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """Change an envelope, and sign what it says now."""
        told = {**envelope, **changed}
        return {**told, "Signature": self.signer.sign(told, "2")}


def forged(post: Post, dice: Dice) -> bytes:
    """Give one that must be refused."""
    true = post.envelope("{}")
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
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
        at = dice.one([future, "", "now", "2026-11-25T00:00:00", "9999-12-31T23:59:59Z"])
        return encoded(post.again(true, Timestamp=at))
    if kind == 5:
        return encoded(
            {**true, "Signature": dice.one(["", "x", "=", "QUJD", dice.text() + "*", "A" * 344])}
        )
    if kind == 6:
        confirmation = post.confirmation()
        # A confirmation may lead anywhere on SNS's own host.
        those = [each for each in ELSEWHERE if not each.startswith(f"{SNS}/")]
        url = dice.one(those).replace("{sandbox}", post.sandbox)
        return encoded(post.again(confirmation, SubscribeURL=url))
    return encoded({**true, "SignatureVersion": dice.one(["", "0", "3", "1", "2 ", 2])})


def by_chance(place: Place, dice: Dice, number: int) -> Iterator[Ask]:
    """Give so many: most of them forged, some broken, some true and said before."""
    post = Post(place)
    said = [
        encoded(post.envelope(each, version)) for each in (*MESSAGES, *TEXTS) for version in "12"
    ]
    for _ in range(number):
        kind = dice.number(10)
        if kind < 6:
            yield Ask("POST", PATH, {"content-type": "text/plain"}, forged(post, dice), forged=True)
        elif kind < 8:
            # It may come to name a certificate that the sandbox does not have.
            body = spoilt(encoded(post.envelope("someone")), dice)
            yield Ask("POST", PATH, {}, body, calm=(NO_CERTIFICATE,))
        else:
            yield Ask("POST", PATH, {}, dice.one(said))
    # The sandbox's own address is trusted, but there is no such certificate at it.
    url = f"{post.sandbox}{CERTIFICATE_PATH}".replace("sandbox", "none")
    yield Ask(
        "POST",
        PATH,
        {},
        encoded({**post.envelope(), "SigningCertURL": url}),
        calm=(NO_CERTIFICATE,),
    )
