"""Encrypts personal and secret values, and hashes them so that they can be looked up.

AES-256-GCM with a key ring. The first key encrypts and every key decrypts, so a new key is put in
front of the others. An encrypted value is bound to its owner and can be decrypted for no other.

No key of the ring encrypts anything itself. Each encrypts with a key derived for the day, because
AES-GCM with random nonces is safe for 2^32 values of one key, and a key of the ring is used for
years (docs/decisions/0024-a-derived-key-for-each-day.md).
"""

import binascii
import logging
import os
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from courant import clock, ids
from courant.runbooks import Runbook

BY_DAY = b"\0"
"""The first byte of a value that a day's key encrypted. Other values begin with the length of the
key's name, which is never 0: a key of the ring encrypted them itself, as earlier versions did."""
DAY_BYTES = 4
DAYS_KEPT = 64
"""How many days' keys stay in memory. Making one takes 10 µs, twice as long as encrypting."""
NONCE_BYTES = 12
KEY_BYTES = 32
TAG_BYTES = 16
HASH_BYTES = 16
TOLD_EVERY = timedelta(minutes=1)

log = logging.getLogger(__name__)


class Undecryptable(ValueError):
    """No key of the ring decrypts the value for this owner. Names the reason, never the value."""


class KeyMissing(Undecryptable):
    """The value's key is not in the ring. That is this process's fault and not the value's."""


class KeyRing:
    """Keys by name. The first one encrypts, every one decrypts."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = {name.encode(): key for name, key in keys.items()}
        self._name = next(iter(self._keys))
        self._front = BY_DAY + bytes([len(self._name)]) + self._name
        self._of_day = lru_cache(DAYS_KEPT)(self._derived)
        self._told_at = datetime.min.replace(tzinfo=UTC)

    def encrypt(self, plain: bytes, owner: bytes) -> bytes:
        """Encrypt for an owner with today's key.

        Returns [0][length of the key's name][name][day][nonce][ciphertext and tag].
        """
        day = ids.day_at(clock.now()).to_bytes(DAY_BYTES)
        nonce = os.urandom(NONCE_BYTES)
        text = self._of_day(self._name, day).encrypt(nonce, plain, owner)
        return self._front + day + nonce + text

    def decrypt(self, sealed: bytes, owner: bytes) -> bytes:
        """Decrypt a value that was encrypted for this owner; raises Undecryptable, KeyMissing."""
        by_day = sealed.startswith(BY_DAY)
        length_at = len(BY_DAY) if by_day else 0
        name_at = length_at + 1
        day_at = name_at + (sealed[length_at] if len(sealed) > length_at else 0)
        nonce_at = day_at + (DAY_BYTES if by_day else 0)
        text_at = nonce_at + NONCE_BYTES
        name, day = sealed[name_at:day_at], sealed[day_at:nonce_at]
        if not name or len(sealed) < text_at + TAG_BYTES:
            raise Undecryptable("sealed: does not open")
        if name not in self._keys:
            self._tell(name.decode(errors="replace"))
            raise KeyMissing("sealed: by a key that is not in the ring")
        key = self._of_day(name, day) if by_day else AESGCM(self._keys[name])
        try:
            return key.decrypt(sealed[nonce_at:text_at], sealed[text_at:], owner)
        except (InvalidTag, ValueError):
            raise Undecryptable("sealed: does not open") from None

    def _tell(self, name: str) -> None:
        # A million values may have this key, and one line says it all.
        now = clock.now()
        if now - self._told_at > TOLD_EVERY:
            self._told_at = now
            log.error(
                "an encryption key is missing",
                extra={"key": name, "runbook": Runbook.KEY_MISSING},
            )

    def _derived(self, name: bytes, day: bytes) -> AESGCM:
        derived = blake2b(day, key=self._keys[name], digest_size=KEY_BYTES, person=b"courant day")
        return AESGCM(derived.digest())


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
