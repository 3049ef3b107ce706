"""Parts of the sandbox that need no server: addresses, rates, orders, the ledger's file."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courant_sandbox import apis, ledger, recipients
from courant_sandbox.faults import Bucket, Control
from courant_sandbox.ledger import Ledger
from courant_sandbox.messages import Channel, Draft, Entry, Outcome, Parts, Refused
from courant_sandbox.recipients import ORDINARY, behaviour


def booked(number: int, text: str = "A text") -> tuple[Entry, Parts]:
    parts = Parts("A subject", text)
    entry = Entry(
        at="2026-01-01T00:00:00.000000Z",
        channel=Channel.EMAIL,
        to=f"a{number}@example.ca",
        notification_id=None,
        attempt=None,
        message_id=f"id-{number}",
        outcome=Outcome.DELIVERED,
        body_hash=parts.digest(),
        api="SendEmail",
        source="service@example.ca",
        tags={},
    )
    return entry, parts


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("bounce@example.ca", Outcome.BOUNCED),
        ("BOUNCE+anything@example.ca", Outcome.BOUNCED),
        ("Bounce <bounce@example.ca>", Outcome.BOUNCED),
        ("bouncer@example.ca", Outcome.DELIVERED),
        ("a+bounce@example.ca", Outcome.DELIVERED),
        ("a@bounce.ca", Outcome.DELIVERED),
        ("a@example.ca, bounce@example.ca", Outcome.DELIVERED),
        ("bounce@example.ca, a@example.ca", Outcome.BOUNCED),
    ],
)
def test_the_local_part_before_plus_or_at_orders(to: str, expected: Outcome) -> None:
    assert behaviour(Channel.EMAIL, to).outcome is expected


def test_every_row_of_the_documented_table_is_in_force_and_no_other() -> None:
    assert recipients.__doc__ is not None
    words = re.findall(r"`([a-z-]+)@` +\|", recipients.__doc__)
    digits = re.findall(r"…(\d{4}) +\|", recipients.__doc__)
    assert sorted(words) == sorted(recipients.BY_LOCAL_PART)
    assert sorted(digits) == sorted(recipients.BY_LAST_DIGITS)


def test_a_number_orders_by_its_last_four_digits() -> None:
    assert behaviour(Channel.SMS, "+16135550001").outcome is Outcome.UNREACHABLE
    assert behaviour(Channel.SMS, "+16130001555") is ORDINARY


def test_a_bucket_gives_its_rate_and_pays_its_debts() -> None:
    bucket = Bucket()
    assert bucket.take(30, 10, now=0.0)
    assert not bucket.take(1, 10, now=1.9)
    assert bucket.take(1, 10, now=2.2)


def test_a_bucket_over_a_long_time_gives_no_more_than_its_rate() -> None:
    bucket = Bucket()
    taken = sum(bucket.take(7, 10, now=tick / 100) for tick in range(10_000)) * 7
    assert 990 <= taken <= 1_020


def test_orders_for_one_channel_leave_the_other_alone() -> None:
    control = Control()
    control.merge(b'{"channel": "sms", "throttle_share": 0.5}')
    control.merge(b'{"latency_seconds": 1}')
    assert control.of(Channel.SMS).throttle_share == 0.5
    assert control.of(Channel.EMAIL).throttle_share == 0
    assert control.of(Channel.SMS).latency_seconds == control.of(Channel.EMAIL).latency_seconds == 1


def test_the_ledger_tells_its_public_keys_and_no_others(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    book.append([booked(1)])
    told = b"".join(book.blocks(0))
    keys = re.findall(rb'"([a-z_]+)":', told)
    assert keys == [
        b"at", b"channel", b"to", b"notification_id", b"attempt", b"message_id", b"outcome",
        b"body_hash",
    ]  # fmt: skip
    book.close()


def test_a_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path)
    book.append([booked(1), booked(2)])
    book.close()
    whole = path.read_bytes()
    for cut in (1, 20, 200):
        path.write_bytes(whole[:-cut])
        book = Ledger(path)
        assert book.lines() == 1
        assert [entry.message_id for entry, _ in book.entries(0, 10)] == ["id-1"]
        book.close()


def test_where_a_line_ends_is_where_the_next_is_read(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    ends = book.append([booked(n) for n in range(5)])
    found = book.entries(ends[1], 2)
    assert [entry.message_id for entry, _ in found] == ["id-2", "id-3"]
    assert [end for _, end in found] == ends[2:4]
    book.close()


def test_what_is_kept_for_the_page_is_bounded_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEPT_MESSAGES_MAX", 10)
    monkeypatch.setattr(ledger, "PARTS_FILE_BYTES_MAX", 20_000)
    book = Ledger(tmp_path / "ledger.jsonl")
    for number in range(200):
        book.append([booked(number, "x" * 500)])
    assert [kept.entry.message_id for kept in book.newest()][:2] == ["id-199", "id-198"]
    assert len(list(book.newest())) == 10
    assert sum(path.stat().st_size for path in tmp_path.glob("*.parts*")) <= 40_000
    assert book.lines() == 200
    book.close()
    again = Ledger(tmp_path / "ledger.jsonl")
    assert [kept.entry.message_id for kept in again.newest()][:2] == ["id-199", "id-198"]
    again.close()


@pytest.mark.parametrize("api", apis.APIS, ids=lambda api: api.name)
@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_a_reader_fail_otherwise_than_by_refusing(api: apis.Api, body: bytes) -> None:
    with suppress(Refused):
        assert all(isinstance(draft, Draft) for draft in api.read(body))
