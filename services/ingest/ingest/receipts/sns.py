"""SNS over HTTPS: is an envelope really Amazon's, and from a topic of ours.

403 is said only of what is certainly forged: SNS does not come again after a 4xx. A certificate
that cannot be fetched is weather.
"""

import asyncio
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpx2
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from courant.errors import Unavailable

HOST = re.compile(r"sns\.([a-z0-9-]{3,30})\.amazonaws\.com(\.cn)?")
PEM_PATH = re.compile(r"/[A-Za-z0-9_.-]+\.pem")
ARN = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]{3,30}):\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
FETCH_SECONDS = 5.0
CERTIFICATE_BYTES_MAX = 16_384
CERTIFICATES_MAX = 32
CLOCK_AHEAD_MAX = timedelta(minutes=5)
NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# SHA-1 is what version 1 means, and the default of SNS; version 2 is set on the topic.
HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {"1": hashes.SHA1, "2": hashes.SHA256}


class Forged(Exception):
    """Certainly not from SNS, or not from a topic of ours; says by what it is known."""


class Envelope(msgspec.Struct, frozen=True, rename="pascal"):
    """What SNS posts."""

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
    """Read an envelope, whatever its Content-Type says; raises Forged."""
    try:
        return msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Forged("no envelope") from None


def signed_text(envelope: Envelope) -> bytes:
    """Write the text that is signed: each field's name and value on lines of their own."""
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
    """Tell whether a URL is on SNS's own host, in the topic's region."""
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
    """Tell whether a certificate may be fetched from there: one .pem, no query, SNS's host."""
    if not is_sns_url(url, topic_arn):
        return False
    return "?" not in url and bool(PEM_PATH.fullmatch(urlsplit(url).path))


class SignatureVerifier:
    """Judges envelopes; fetches a certificate once and keeps its key."""

    def __init__(
        self,
        topic_arns: frozenset[str],
        trusted_prefix: str,
        fetch: Callable[[str], Awaitable[bytes]],
    ) -> None:
        self._topic_arns = topic_arns
        self._trusted_prefix = trusted_prefix
        self._fetch = fetch
        self._certificates: dict[str, x509.Certificate] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def verify(self, envelope: Envelope, now: datetime) -> None:
        """Return if the envelope is what it says; raises Forged, Unavailable."""
        if envelope.topic_arn not in self._topic_arns:
            raise Forged("not a topic of ours")
        algorithm = HASHES.get(envelope.signature_version)
        if algorithm is None:
            raise Forged("no such version of signatures")
        url = envelope.signing_cert_url
        if not (self._trusts(url) or is_certificate_url(url, envelope.topic_arn)):
            raise Forged("certificate from elsewhere")
        # An old one may come out of a dead-letter queue; moves are guarded against repetition.
        if posted_at(envelope) > now + CLOCK_AHEAD_MAX:
            raise Forged("from the future")
        certificate = await self._certificate(url, now)
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise Forged("certificate of another kind")
        try:
            signature = b64decode(envelope.signature, validate=True)
            key.verify(signature, signed_text(envelope), padding.PKCS1v15(), algorithm())
        except (InvalidSignature, ValueError):
            raise Forged("signature") from None

    async def confirm(self, envelope: Envelope) -> None:
        """Open the address by which a subscription begins; raises Forged, Unavailable."""
        url = envelope.subscribe_url or ""
        if not (self._trusts(url) or is_sns_url(url, envelope.topic_arn)):
            raise Forged("confirmation to elsewhere")
        await self._fetch(url)

    def _trusts(self, url: str) -> bool:
        return bool(self._trusted_prefix) and url.startswith(self._trusted_prefix)

    async def _certificate(self, url: str, now: datetime) -> x509.Certificate:
        if len(self._certificates) + len(self._locks) > CERTIFICATES_MAX:
            self._certificates.clear()
            self._locks.clear()
        async with self._locks.setdefault(url, asyncio.Lock()):  # one fetch of a URL at once
            if url not in self._certificates:
                self._certificates[url] = parse_certificate(await self._fetch(url))
        certificate = self._certificates[url]
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            del self._certificates[url]
            raise Unavailable("the certificate is not valid now")
        return certificate


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Read a certificate; one that is none counts as not fetched."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Unavailable("the certificate cannot be read") from None


def posted_at(envelope: Envelope) -> datetime:
    """Read when an envelope was made; raises Forged."""
    try:
        at = datetime.fromisoformat(envelope.timestamp)
    except ValueError:
        raise Forged("no time") from None
    if at.tzinfo is None:
        raise Forged("no time")
    return at


async def fetch(url: str) -> bytes:
    """Fetch what a URL holds: no redirects, a limit on time and size; raises Unavailable."""
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx2.AsyncClient(timeout=FETCH_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise Unavailable(f"fetching: HTTP {answer.status_code}")
            found = b""
            async for part in answer.aiter_bytes():
                found += part
                if len(found) > CERTIFICATE_BYTES_MAX:
                    raise Unavailable("fetching: too large")
            return found
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise Unavailable(f"fetching: {type(error).__name__}") from None
