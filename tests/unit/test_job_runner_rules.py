"""What job-runner decides."""

import zlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from courant import bulk, ids
from courant.bulk import StoredRows
from courant.contracts import Command, Content, JobCommand, KeyType, Malformed, Notification
from courant.crypto import KeyRing
from courant.records import Dead, Keep, Record
from courant.testing.builders import NOW, partition
from courant.topics import JOBS, Channel, Lane
from job_runner import rules
from job_runner.rows import DueJob, Job
from support.job_runner import RING, row, upload, written

JOB = Job(
    id=ids.new(NOW),
    service_id=UUID(int=7),
    key_id=UUID(int=8),
    key_type=KeyType.NORMAL,
    template_id=UUID(int=9),
    template_version=3,
    channel=Channel.SMS,
    sender_id=UUID(int=4),
)


def read(value: bytes, key: bytes = b"") -> rules.Verdict[rules.JobRecord]:
    return rules.read_job(RING, Record(partition(JOBS.name), 0, key, value, (), NOW))


def test_what_an_upload_is_made_of_is_kept() -> None:
    made = upload(7)
    for each in (
        *made.chunks,
        made.seal,
        JobCommand(job_id=made.job_id, command=Command.PAUSED, at=NOW),
    ):
        verdict = read(written(each).value)
        assert isinstance(verdict, Keep)
        assert verdict.value == each


def test_a_wish_has_the_brokers_time() -> None:
    early = JobCommand(job_id=JOB.id, command=Command.PAUSED, at=NOW - timedelta(hours=1))
    verdict = read(early.encode())
    assert isinstance(verdict, Keep)
    assert verdict.value == msgspec.structs.replace(early, at=NOW)


def test_a_chunk_that_does_not_open_is_a_dead_letter_and_says_why() -> None:
    [chunk] = upload(3).chunks
    other = msgspec.structs.replace(chunk, number=1)
    torn = msgspec.structs.replace(chunk, sealed=chunk.sealed[:-1])
    short = msgspec.structs.replace(chunk, rows=4)
    found = [read(each.encode()) for each in (other, torn, short)]
    assert [each.reason for each in found if isinstance(each, Dead)] == [
        "sealed: does not open",
        "sealed: does not open",
        "rows: not as many as the chunk says",
    ]
    assert isinstance(read(b"?"), Dead)
    assert isinstance(read(b'{"kind":"other"}'), Dead)


def test_a_chunk_whose_key_is_missing_is_kept() -> None:
    [chunk] = upload(3, ring=KeyRing({"2": b"o" * 32})).chunks
    assert isinstance(read(chunk.encode()), Keep)


def test_a_row_becomes_the_same_notification_however_often() -> None:
    first, again = (rules.notification(JOB, row(5), 5, RING, NOW) for _ in range(2))
    assert first.topic == "inbox.sms.bulk"
    assert first.key == again.key == ids.of_row(JOB.id, 5).bytes
    made = Notification.decode(first.value)
    assert (made.id.bytes, made.job_id, made.job_row) == (first.key, JOB.id, 5)
    assert (made.lane, made.channel, made.key_type) == (Lane.BULK, Channel.SMS, KeyType.NORMAL)
    assert (made.reference, made.sender_id) == ("ref-5", JOB.sender_id)
    assert (made.accepted_at, made.scheduled_for) == (NOW, None)
    content = msgspec.json.decode(RING.decrypt(made.sealed, made.id.bytes), type=Content)
    assert content == Content(to="row-5@example.com", personalisation={"name": "Row 5"})


def test_of_what_is_simulated_no_provider_hears() -> None:
    simulated = msgspec.structs.replace(row(1), simulated=True)
    found = rules.notification(JOB, simulated, 1, RING, NOW)
    assert Notification.decode(found.value).key_type is KeyType.TEST


def test_rows_ids_rise_with_their_numbers_and_keep_their_jobs_day() -> None:
    other = replace(JOB, id=ids.new(NOW))
    found = [ids.of_row(JOB.id, number) for number in (1, 2, 4095, 4096, 1_000_000)]
    assert found == sorted(found)
    assert {ids.day_of(each) for each in found} == {ids.day_of(JOB.id)}
    assert ids.of_row(other.id, 1) != found[0]
    for number in (1, 2, 999_999):
        low, high = ids.of_rows(JOB.id, number, number)
        assert ids.of_row(JOB.id, number - 1) < low < ids.of_row(JOB.id, number) < high
        assert high < ids.of_row(JOB.id, number + 1)


@pytest.mark.parametrize(
    ("there", "waiting", "settled"),
    [
        (500, 0, True),
        (500, 50, True),
        (500, 51, False),
        (499, 49, True),
        (499, 50, False),
        (450, 0, True),
        (449, 0, False),
        (0, 0, False),
    ],
)
def test_a_chunk_is_settled_once_most_of_it_has_left(
    there: int, waiting: int, settled: bool
) -> None:
    assert rules.is_settled(500, StoredRows(there, waiting)) is settled


@pytest.mark.parametrize(
    ("out", "oldest", "settled", "lag", "room"),
    [
        (0, 0.0, 0, 5.0, 4),  # nothing is known yet
        (4, 1.0, 0, 5.0, 0),
        (3, 1.0, 0, 5.0, 1),
        (10, 1.0, 80, 5.0, 30),  # half of what was handled in that time
        (60, 1.0, 80, 5.0, 0),
        (1, 5.0, 20, 5.0, 0),  # the lane lags
        (900, 99.0, 0, 0.0, None),  # no back-pressure
    ],
)
def test_no_more_is_ordered_than_will_be_handled(
    out: int, oldest: float, settled: int, lag: float, room: int | None
) -> None:
    assert rules.orders_allowed(out, oldest, settled, lag) == room


A, B = UUID(int=1), UUID(int=2)


def test_services_take_turns_and_a_services_first_job_is_first() -> None:
    jobs = [uuid4() for _ in range(3)]
    due = [DueJob(jobs[0], A, 100), DueJob(jobs[1], A, 100), DueJob(jobs[2], B, 3)]
    assert rules.share_orders(due, {}, 4) == Counter({jobs[0]: 2, jobs[2]: 2})
    assert rules.share_orders(due, {}, 10) == Counter({jobs[0]: 7, jobs[2]: 3})
    # What a service has out already counts.
    assert rules.share_orders(due, {A: 9}, 3) == Counter({jobs[2]: 3})
    assert rules.share_orders(due, {}, 0) == Counter()


def test_without_room_to_mind_all_is_ordered() -> None:
    jobs = [uuid4(), uuid4()]
    due = [DueJob(jobs[0], A, 5), DueJob(jobs[1], A, 2)]
    assert rules.share_orders(due, {}, None) == Counter({jobs[0]: 5, jobs[1]: 2})


@pytest.mark.timeout(120)  # a turn that is never taken would be looked for without end
@pytest.mark.parametrize("room", [None, 4])
def test_a_job_without_rows_takes_no_turn(room: int | None) -> None:
    jobs = [uuid4(), uuid4()]
    due = [DueJob(jobs[0], A, 0), DueJob(jobs[1], A, 3)]
    assert rules.share_orders(due, {}, room) == Counter({jobs[1]: 3})


def test_an_upload_is_whole_when_each_chunk_is_the_one_that_was_sealed() -> None:
    made = upload(7)
    prints = [bulk.fingerprint(each.sealed) for each in made.chunks]
    digest = made.seal.digest
    assert rules.is_whole(prints, 3, digest)
    assert not rules.is_whole(prints[:2], 3, digest)
    assert not rules.is_whole([*prints, prints[0]], 3, digest)
    assert not rules.is_whole([prints[1], prints[0], prints[2]], 3, digest)
    assert rules.is_whole([], 0, bulk.digest([]))


def test_a_chunk_of_another_upload_opens_nowhere_else() -> None:
    one, other = upload(3), upload(3)
    [chunk] = one.chunks
    assert bulk.unpack(RING, chunk.upload_id, 0, chunk.sealed) == [row(n) for n in (1, 2, 3)]
    with pytest.raises(ValueError, match="does not open"):
        bulk.unpack(RING, other.seal.upload_id, 0, chunk.sealed)


def test_a_bomb_is_not_unpacked() -> None:
    sealed = RING.encrypt(zlib.compress(b"0" * (bulk.PACKED_MAX + 1)), UUID(int=1).bytes + bytes(4))
    with pytest.raises(Malformed, match="more than a chunk has"):
        bulk.unpack(RING, UUID(int=1), 0, sealed)
