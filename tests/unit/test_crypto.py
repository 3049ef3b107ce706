"""Encrypted values: who can open them, and under which key."""

import os
from datetime import UTC, datetime

import pytest
import time_machine
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from courant.crypto import KeyMissing, KeyRing, Undecryptable
from courant.runbooks import Runbook
from courant.testing.builders import NOW

KEY, OLDER = b"k" * 32, b"o" * 32
RING = KeyRing({"new": KEY, "older": OLDER})
OWNER = b"owner-of-a-value"
PLAIN = b"a secret"


def test_only_the_owner_opens_a_value() -> None:
    sealed = RING.encrypt(PLAIN, OWNER)
    assert PLAIN not in sealed
    assert RING.decrypt(sealed, OWNER) == PLAIN
    with pytest.raises(Undecryptable, match="does not open"):
        RING.decrypt(sealed, b"somebody else")


def test_a_value_of_an_older_key_opens_and_one_of_a_removed_key_does_not() -> None:
    sealed = KeyRing({"older": OLDER}).encrypt(PLAIN, OWNER)
    assert RING.decrypt(sealed, OWNER) == PLAIN
    with pytest.raises(Undecryptable, match="not in the ring"):
        KeyRing({"new": KEY}).decrypt(sealed, OWNER)


def test_a_missing_key_is_told_from_a_value_that_nobody_can_open() -> None:
    sealed = RING.encrypt(PLAIN, OWNER)
    with pytest.raises(KeyMissing):
        KeyRing({"older": OLDER}).decrypt(sealed, OWNER)
    torn = sealed[:-1]
    for value in (torn, b"", b"x", b"\0", sealed[:20], b"\0\0" + bytes(60)):
        for ring in (RING, KeyRing({"older": OLDER})):
            with pytest.raises(Undecryptable) as raised:
                ring.decrypt(value, OWNER)
            missing = isinstance(raised.value, KeyMissing)
            assert missing == (value == torn and ring is not RING)  # its key's name is whole


def test_a_missing_key_is_an_error_line_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    sealed, ring = RING.encrypt(PLAIN, OWNER), KeyRing({"older": OLDER})
    with time_machine.travel(NOW, tick=False) as clock:
        for seconds, lines in ((0, 1), (0, 1), (59, 1), (2, 2)):
            clock.shift(seconds)
            with pytest.raises(KeyMissing):
                ring.decrypt(sealed, OWNER)
            assert len(caplog.records) == lines
    [first, _] = caplog.records
    assert first.getMessage() == "an encryption key is missing"
    assert (first.key, first.runbook) == ("new", Runbook.KEY_MISSING)  # type: ignore[attr-defined]


def test_a_value_that_an_earlier_version_encrypted_opens() -> None:
    nonce = os.urandom(12)
    sealed = b"\x05older" + nonce + AESGCM(OLDER).encrypt(nonce, PLAIN, OWNER)
    assert RING.decrypt(sealed, OWNER) == PLAIN


def test_no_key_of_the_ring_encrypts_a_value_itself() -> None:
    # Otherwise AES-GCM's 2^32 values with random nonces would be for the life of the ring's key.
    sealed = RING.encrypt(PLAIN, OWNER)
    nonce, text = sealed[-len(PLAIN) - 28 :][:12], sealed[-len(PLAIN) - 16 :]
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(nonce, text, OWNER)


def test_each_day_has_a_key_of_its_own() -> None:
    with time_machine.travel(datetime(2026, 3, 1, tzinfo=UTC), tick=False):
        first = RING.encrypt(PLAIN, OWNER)
    with time_machine.travel(datetime(2026, 3, 2, tzinfo=UTC), tick=False):
        second = RING.encrypt(PLAIN, OWNER)
        assert RING.decrypt(first, OWNER) == PLAIN
    day_at = len(b"\0\x03new")
    assert first[day_at : day_at + 4] != second[day_at : day_at + 4]
    moved = first[:day_at] + second[day_at : day_at + 4] + first[day_at + 4 :]
    with pytest.raises(Undecryptable, match="does not open"):
        RING.decrypt(moved, OWNER)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\0\x03new" + tail))
def test_anything_else_is_undecryptable(value: bytes) -> None:
    with pytest.raises(Undecryptable):
        RING.decrypt(value, OWNER)


@given(st.integers(0, 60))
def test_a_value_cut_short_is_undecryptable(length: int) -> None:
    sealed = RING.encrypt(PLAIN, OWNER)
    if length < len(sealed):
        with pytest.raises(Undecryptable):
            RING.decrypt(sealed[:length], OWNER)
