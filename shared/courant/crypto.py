"""Encrypts personal and secret values, and hashes them so that they can be looked up.

AES-256-GCM with a key ring. The first key encrypts and every key decrypts, so a new key is put in
front of the others. An encrypted value is bound to its owner and can be decrypted for no other.
"""

import binascii
import os
from base64 import b64decode
from collections.abc import Mapping
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
KEY_BYTES = 32
HASH_BYTES = 16


class Undecryptable(ValueError):
    """No key of the ring decrypts the value for this owner. Names the reason, never the value."""


class KeyRing:
    """Keys by name. The first one encrypts, every one decrypts."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._open = {name.encode(): AESGCM(key) for name, key in keys.items()}
        self._name = next(iter(self._open))
        self._front = bytes([len(self._name)]) + self._name

    def encrypt(self, plain: bytes, owner: bytes) -> bytes:
        """Encrypt for an owner, as [length of the key's name][name][nonce][ciphertext and tag]."""
        nonce = os.urandom(NONCE_BYTES)
        return self._front + nonce + self._open[self._name].encrypt(nonce, plain, owner)

    def decrypt(self, sealed: bytes, owner: bytes) -> bytes:
        """Decrypt a value that was encrypted for this owner; raises Undecryptable."""
        start = 1 + (sealed[0] if sealed else 0)
        key = self._open.get(sealed[1:start])
        nonce, text = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        if not key:
            raise Undecryptable("sealed: by a key that is not in the ring")
        try:
            return key.decrypt(nonce, text, owner)
        except (InvalidTag, ValueError):
            raise Undecryptable("sealed: does not open") from None


def key_ring(text: str) -> KeyRing:
    """Read a key ring: `name:base64,name:base64`, 32 bytes each; raises ValueError."""
    keys = {}
    for part in filter(None, text.split(",")):
        name, _, key = part.strip().partition(":")
        try:
            keys[name] = b64decode(key, validate=True)
        except binascii.Error:
            raise ValueError("must be name:base64, several separated by commas") from None
        if len(keys[name]) != KEY_BYTES or not name or len(name) > 255:
            raise ValueError("must have a name and 32 bytes in base64 for each key")
    if not keys:
        raise ValueError("must have at least one key, name:base64")
    return KeyRing(keys)


def keyed_hash(key: bytes, *parts: bytes) -> bytes:
    """Return a 16-byte hash for look-ups, which only a holder of the key can compute.

    The same parts always have the same hash.
    """
    digest = keyed_digest(key)
    for part in parts:
        digest.update(len(part).to_bytes(4) + part)
    return digest.digest()


def keyed_digest(key: bytes) -> blake2b:
    """Return an empty keyed hash: `update` adds a piece, `digest` returns the 16 bytes."""
    return blake2b(key=key[:64], digest_size=HASH_BYTES)
