"""SNS envelopes, signed as SNS signs them, by a key made once and kept beside the ledger."""

import base64
import datetime
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

KEY_BITS = 2048
VALID_FOR = datetime.timedelta(days=3650)
CERTIFICATE_PATH = "/SimpleNotificationService-sandbox.pem"

# The order of the fields in the text that is signed; Subject counts only where there is one.
NOTIFICATION_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION_FIELDS = (
    "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
)  # fmt: skip


class Signer:
    """Holds the key. Version 1 signs with SHA-1, as SNS does by default, version 2 with SHA-256."""

    def __init__(self, directory: Path, now: datetime.datetime) -> None:
        self._key = _key(directory / "signing-key.pem")
        self.certificate = _certificate(directory / "signing-cert.pem", self._key, now)

    def sign(self, envelope: Mapping[str, str], version: str) -> str:
        fields = NOTIFICATION_FIELDS if envelope["Type"] == "Notification" else CONFIRMATION_FIELDS
        text = "".join(f"{name}\n{envelope[name]}\n" for name in fields if name in envelope)
        # SHA-1 is what version 1 means; nothing rests on it but a test of the receiver.
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), algorithm)
        return base64.b64encode(signature).decode()


def _key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(path, pem)
    return key


def _certificate(path: Path, key: rsa.RSAPrivateKey, now: datetime.datetime) -> bytes:
    if path.exists():
        pem = path.read_bytes()
        if x509.load_pem_x509_certificate(pem).public_key() == key.public_key():
            return pem
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "courant-sandbox")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + VALID_FOR)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    _write(path, pem)
    return pem


def _write(path: Path, pem: bytes) -> None:
    """Write atomically: a start after a kill must not find half a key."""
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_bytes(pem)
    part.replace(path)
