"""Authentication of a client: by a JWT signed with a key's secret, or by the key itself.

HS256 is checked here and not by a library, for two reasons. We must try all keys of a service,
revoked ones too, and report which check failed. And it takes 9 µs, where PyJWT takes 25 µs a key.
"""

import binascii
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from courant.crypto import KeyRing, Undecryptable, keyed_hash
from courant.directory.entries import ApiKey, Directory, Service
from ingest.http.answers import Answer, error_answer, unavailable
from ingest.http.fields import UUID_FORM

CLOCK_SECONDS = 30
TOKEN_CHARACTERS_MAX = 4096  # a valid JWT has about 160
SECRETS_CACHED_MAX = 100_000
KEY_LENGTH_MIN = 79
DOCS = "https://documentation.notification.canada.ca/en/start.html#headers"
BASE64 = re.compile(r"[A-Za-z0-9_-]*")


def denied(text: str) -> Answer:
    return error_answer(403, "AuthError", f"Invalid token: {text}")


DIRECTORY_NOT_READ = unavailable("The directory is not read yet")
NO_TOKEN = error_answer(401, "AuthError", "Unauthorized, authentication token must be provided")
NO_SCHEME = error_answer(
    401,
    "AuthError",
    "Unauthorized, Authorization header is invalid. GC Notify supports the following "
    "authentication methods. Bearer: JWT token that the client generates and passes in, Learn "
    f"more: {DOCS}., ApiKey-v1: If you cannot generate a JWT token you may optionally use the API "
    f"secret generated for you by GC Notify. Learn more: {DOCS}.",
)
UNREADABLE = denied("signature, api token is not valid")
NO_ISSUER = denied("iss field not provided")
ISSUER_INVALID = denied("service id is not the right data type")
NO_SERVICE = denied("service not found")
NO_KEYS = denied("service has no API keys")
ARCHIVED = denied("service is archived")
NO_KEY_MATCHES = denied("signature, api token not found")
CLOCK_WRONG = error_answer(
    403, "AuthError", "Error: Your system clock must be accurate to within 30 seconds"
)
REVOKED = denied("API key revoked")
KEY_INCOMPLETE = denied("Enter your full API key")
NO_KEY = denied("API key not found")


@dataclass(frozen=True, slots=True)
class Caller:
    """The service that sent a request, and the API key that it used."""

    service: Service
    key: ApiKey


class Authentication:
    """Finds the caller in the directory. Keeps decrypted secrets in memory."""

    def __init__(self, directory: Directory, key_ring: KeyRing, hash_key: bytes) -> None:
        self._directory = directory
        self._key_ring = key_ring
        self._hash_key = hash_key
        self._secrets: dict[tuple[UUID, int], bytes | None] = {}

    def authenticate(self, header: str, now: datetime) -> Caller | Answer:
        """Return the caller that an Authorization header proves, or the answer that rejects it."""
        # Just after the start no service is known. A 403 would mean that the client's key is bad.
        if not self._directory.is_read:
            return DIRECTORY_NOT_READ
        if not header:
            return NO_TOKEN
        # The scheme is a prefix in any case. One character after it is skipped, whatever it is.
        scheme = header[:9].lower()
        if scheme.startswith("bearer"):
            return self._by_jwt(header[7:].strip(), now.timestamp())
        if scheme == "apikey-v1":
            return self._by_key(header[10:].strip())
        return NO_SCHEME

    def _by_jwt(self, token: str, now: float) -> Caller | Answer:
        jwt = split_jwt(token)
        if jwt is None:
            return UNREADABLE
        header, claims, signed, signature = jwt
        issuer = claims.get("iss")
        if issuer is None:
            return NO_ISSUER
        if type(issuer) is not str or not UUID_FORM.fullmatch(issuer):
            return ISSUER_INVALID
        service = self._directory.services.get(UUID(issuer))
        if service is None:
            return NO_SERVICE
        keys = self._directory.keys.get(service.id)
        if not keys:
            return NO_KEYS
        if not service.active:
            return ARCHIVED
        if header.get("alg") != "HS256":
            return NO_KEY_MATCHES
        for key in keys.values():
            secret = self._secret(key)
            if secret and hmac.compare_digest(hmac.digest(secret, signed, "sha256"), signature):
                return claims_fault(claims, now) or (
                    REVOKED if key.expires_at else Caller(service, key)
                )
        return NO_KEY_MATCHES

    def _by_key(self, token: str) -> Caller | Answer:
        if not token.startswith("gcntfy-"):
            return KEY_INCOMPLETE
        # A keyed hash finds the key, so that the time of the look-up reveals nothing of the secret.
        hashed = keyed_hash(self._hash_key, b"secret", token[-36:].encode())
        key = self._directory.by_secret.get(hashed)
        service = self._directory.services.get(key.service_id) if key else None
        if key is None or service is None:
            return NO_KEY
        if len(token) < KEY_LENGTH_MIN or token[-73:-37] != str(key.service_id):
            return KEY_INCOMPLETE
        return REVOKED if key.expires_at else Caller(service, key)

    def _secret(self, key: ApiKey) -> bytes | None:
        version = (key.id, key.number)
        if version not in self._secrets:
            if len(self._secrets) >= SECRETS_CACHED_MAX:
                self._secrets.clear()
            try:
                self._secrets[version] = self._key_ring.decrypt(key.secret, owner=key.id.bytes)
            except Undecryptable:
                self._secrets[version] = None  # its encryption key is gone, so no JWT matches
        return self._secrets[version]


def split_jwt(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any], bytes, bytes] | None:
    """Split a JWT into header, claims, signed bytes and signature. Returns None for other texts."""
    signed, dot, signature = token.rpartition(".")
    header_text, _, claims_text = signed.partition(".")
    if not dot or len(token) > TOKEN_CHARACTERS_MAX:
        return None
    try:
        header = msgspec.json.decode(decode_base64(header_text))
        claims = msgspec.json.decode(decode_base64(claims_text))
        signature_bytes = decode_base64(signature)
    except (ValueError, RecursionError):  # msgspec's and base64's errors are ValueErrors
        return None
    if type(header) is not dict or type(claims) is not dict or "crit" in header:
        return None
    return header, claims, signed.encode(), signature_bytes


def decode_base64(text: str) -> bytes:
    """Decode base64url without padding. Raises ValueError on any other character."""
    if not BASE64.fullmatch(text):
        raise binascii.Error("foreign characters")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_fault(claims: Mapping[str, Any], now: float) -> Answer | None:
    """Return the answer that rejects the claims of a correctly signed JWT, or None."""
    if any(type(claims.get(name, "")) is not str for name in ("sub", "jti")):
        return UNREADABLE
    if "aud" in claims or "iat" not in claims:
        return NO_KEY_MATCHES
    if "exp" in claims and not epoch_seconds(claims["exp"]) > now:
        return NO_KEY_MATCHES
    if "nbf" in claims and not epoch_seconds(claims["nbf"]) <= now:
        return CLOCK_WRONG
    return None if abs(now - epoch_seconds(claims["iat"])) <= CLOCK_SECONDS else CLOCK_WRONG


def epoch_seconds(value: object) -> float:
    """Read epoch seconds, also from a text. Anything else becomes NaN, which fails every check."""
    if type(value) is bool:
        return float("nan")
    try:
        return float(value)  # type: ignore[arg-type]  # float() raises on other types
    except (TypeError, ValueError, OverflowError):
        return float("nan")
