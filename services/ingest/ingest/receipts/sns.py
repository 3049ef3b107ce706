"""Checks that a post comes from Amazon SNS and from a topic of ours.

Only a post that is certainly forged or too old raises Forged (403), because SNS does not retry
after a 4xx. A certificate that cannot be fetched raises Unavailable (503) instead.
"""

import re
import time
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from courant.errors import Unavailable
from ingest.receipts.certificates import CertificateStore, Fetch

HOST = re.compile(r"sns\.([a-z0-9-]{3,30})\.amazonaws\.com(\.cn)?")
PEM_PATH = re.compile(r"/SimpleNotificationService-[0-9a-f]{32}\.pem")
ARN = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]{3,30}):\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
SIGNATURE_CHARACTERS_MAX = 1024  # in base64; a key of 4,096 bits signs with 684
CLOCK_AHEAD_MAX = timedelta(minutes=5)
OLD_MAX = timedelta(days=23)
"""The longest time for which SNS retries any delivery. A dead-letter queue keeps less: 14 days.
An older message is a replay. Timestamp is the time of the first try (decision 0021)."""
VERIFIED_LATELY_SECONDS = 60.0
NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# SignatureVersion 1, the default of SNS, means SHA-1. Version 2 must be set on the topic.
HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {"1": hashes.SHA1, "2": hashes.SHA256}


class Forged(Exception):
    """A post is certainly not from SNS, or not from a topic of ours. Says which check failed."""


class ClockBehind(Unavailable):
    """A verified post is from the future, so our clock is behind."""


class Envelope(msgspec.Struct, frozen=True, rename="pascal"):
    """The JSON object that SNS posts."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature_version: str
    signature: str
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subject: str | None = None
    token: str | None = None
    subscribe_url: str | None = msgspec.field(name="SubscribeURL", default=None)


def read_envelope(body: bytes) -> Envelope:
    """Read an envelope, whatever the Content-Type. Raises Forged."""
    try:
        return msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Forged("not an SNS envelope") from None


def signed_text(envelope: Envelope) -> bytes:
    """Return the text that SNS signs: each field's name and value, on a line each."""
    values = {
        "Message": envelope.message,
        "MessageId": envelope.message_id,
        "Subject": envelope.subject,
        "SubscribeURL": envelope.subscribe_url,
        "Timestamp": envelope.timestamp,
        "Token": envelope.token,
        "TopicArn": envelope.topic_arn,
        "Type": envelope.type,
    }
    names = NOTIFICATION if envelope.type == "Notification" else CONFIRMATION
    lines = [f"{name}\n{values[name]}\n" for name in names if values[name] is not None]
    return "".join(lines).encode()


def is_sns_url(url: str, topic_arn: str) -> bool:
    """Return whether a URL is on the SNS host of the topic's region."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = HOST.fullmatch(parts.netloc.removesuffix(":443"))
    arn = ARN.fullmatch(topic_arn)
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    return bool(
        plain
        and parts.scheme == "https"
        and url.startswith("https://")
        and port in (None, 443)
        and host
        and arn
        and host[1] == arn[1]
        and not parts.fragment
        and "#" not in url
    )


def is_certificate_url(url: str, topic_arn: str) -> bool:
    """Return whether a certificate may be fetched from a URL: SNS's host, one .pem, no query."""
    if not is_sns_url(url, topic_arn):
        return False
    return "?" not in url and bool(PEM_PATH.fullmatch(urlsplit(url).path))


class SignatureVerifier:
    """Verifies envelopes of our topics."""

    def __init__(self, topic_arns: frozenset[str], trusted_prefix: str, fetch: Fetch) -> None:
        self._topic_arns = topic_arns
        self._trusted_prefix = trusted_prefix
        self._fetch = fetch
        self._certificates = CertificateStore(fetch)
        self._verified_at: dict[str, float] = {}  # by topic, on the monotonic clock

    async def verify(self, envelope: Envelope, now: datetime) -> None:
        """Return if the envelope is genuine. Raises Forged, Unavailable, ClockBehind."""
        if envelope.topic_arn not in self._topic_arns:
            raise Forged("topic is not ours")
        algorithm = HASHES.get(envelope.signature_version)
        if algorithm is None:
            raise Forged("unknown version of signature")
        url = envelope.signing_cert_url
        if not (self._trusts(url) or is_certificate_url(url, envelope.topic_arn)):
            raise Forged("certificate is not from SNS")
        posted = posted_at(envelope)
        if posted < now - OLD_MAX:
            raise Forged("timestamp is older than SNS retries")
        if len(envelope.signature) > SIGNATURE_CHARACTERS_MAX:
            raise Forged("signature is too long")
        certificate = await self._certificates.get(url, now)
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise Forged("certificate has no RSA key")
        try:
            signature = b64decode(envelope.signature, validate=True)
            key.verify(signature, signed_text(envelope), padding.PKCS1v15(), algorithm())
        except (InvalidSignature, ValueError):
            raise Forged("signature does not match") from None
        self._certificates.prove(url)
        if posted > now + CLOCK_AHEAD_MAX:
            raise ClockBehind("a verified timestamp is in the future: is this host's clock right?")
        self._verified_at[envelope.topic_arn] = time.monotonic()

    def verified_lately(self, topic_arn: str) -> bool:
        """Return whether genuine posts of a topic get through now."""
        at = self._verified_at.get(topic_arn, -VERIFIED_LATELY_SECONDS)
        return time.monotonic() - at < VERIFIED_LATELY_SECONDS

    async def confirm(self, envelope: Envelope) -> None:
        """Fetch the URL that confirms a subscription. Raises Forged, Unavailable."""
        url = envelope.subscribe_url or ""
        if not (self._trusts(url) or is_sns_url(url, envelope.topic_arn)):
            raise Forged("confirmation URL is not of SNS")
        await self._fetch(url)

    def _trusts(self, url: str) -> bool:
        return bool(self._trusted_prefix) and url.startswith(self._trusted_prefix)


def posted_at(envelope: Envelope) -> datetime:
    """Return the time at which SNS posted an envelope. Raises Forged."""
    try:
        at = datetime.fromisoformat(envelope.timestamp)
    except ValueError:
        raise Forged("no time") from None
    if at.tzinfo is None:
        raise Forged("no time")
    return at
