"""The same tests of the notifications that ingest reads, on the fake and on PostgreSQL."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from courant import ids
from courant.contracts import KeyType, Notification
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.testing import builders
from courant.testing.builders import NOW
from courant.topics import Channel, Lane
from ingest.accept.idempotency import FirstNotification
from ingest.jobs.rows import FirstJob
from ingest.read import store as reading
from ingest.read.pages import PAGE_ROWS, ListFilter
from ingest.read.store import Missing
from ingest.read.views import NotificationRow
from support.ingest.jobs import stored_job
from support.ingest.twins import WAIT_SECONDS, FakeRowsTwin, PostgresRowsTwin, RowsTwin, ask, until
from support.job_runner import upload

SERVICE, OTHER = UUID(int=7), UUID(int=8)
NUMBERS = count(1)


@pytest.fixture(params=["fake", "postgres"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RowsTwin]:
    # However slow the machine is, an answer that has to come comes in time.
    monkeypatch.setattr(reading, "KEY_LOOKUP_SECONDS", WAIT_SECONDS)
    # What is missing stays so: none of the tests but one has to wait for it.
    monkeypatch.setattr(reading, "ROW_WAIT_SECONDS", 0.0)
    if request.param == "fake":
        yield FakeRowsTwin()
        return
    real = PostgresRowsTwin(request.getfixturevalue("engine"))
    yield real
    real.close()


def accepted(number: int | None = None, **more: Any) -> Notification:
    """Return a notification that was accepted so many seconds after the first."""
    number = next(NUMBERS) if number is None else number
    at = NOW + timedelta(seconds=number)
    given = {"id": ids.new(at), "accepted_at": at, **more}
    return msgspec.structs.replace(builders.notification(number), **given)


def keyed(key: bytes, body: bytes, **more: Any) -> Notification:
    return accepted(idempotency_key=key, body_hash=body, **more)


def save(twin: RowsTwin, *given: Notification) -> None:
    twin.accept(*given)
    twin.save()


def find(twin: RowsTwin, id: UUID, service_id: UUID = SERVICE) -> NotificationRow | Missing:
    found = ask(twin.rows.notification(service_id, id))
    # When a row was saved is the saver's time, in Postgres alone.
    return replace(found, state_at=NOW) if isinstance(found, NotificationRow) else found


def listed(twin: RowsTwin, **asked: Any) -> list[UUID]:
    chosen = ListFilter(**{"service_id": SERVICE, "key_type": KeyType.NORMAL, **asked})
    return [each.id for each in ask(twin.rows.page(chosen)).rows]


def saved(each: Notification) -> NotificationRow:
    return NotificationRow(
        id=each.id,
        template_id=UUID(int=9),
        template_version=3,
        channel=each.channel,
        reference=each.reference,
        sealed=b"\x00sealed\xff",
        accepted_at=each.accepted_at,
        scheduled_for=each.scheduled_for,
        state="created",
        state_at=NOW,
        sent_at=None,
        reason=None,
        response=None,
    )


def test_a_notification_is_read_as_it_was_accepted(twin: RowsTwin) -> None:
    plain = accepted()
    later = NOW + timedelta(hours=5, microseconds=7)
    full = accepted(channel=Channel.SMS, lane=Lane.PRIORITY, reference="é\n", scheduled_for=later)
    save(twin, plain, full)
    assert find(twin, plain.id) == saved(plain)
    assert find(twin, full.id) == saved(full)


def test_a_row_is_read_as_it_was_moved(twin: RowsTwin) -> None:
    given = accepted()
    save(twin, given)
    moved = {"state": "delivered", "sent_at": NOW, "reason": "a", "response": "b", "sealed": b"s"}
    twin.move(given.id, **moved)
    assert find(twin, given.id) == replace(saved(given), **moved)  # type: ignore[arg-type]


def test_an_emptied_row_is_missing_and_in_no_list(twin: RowsTwin) -> None:
    older, given, newer = accepted(), accepted(), accepted()
    save(twin, older, given, newer)
    twin.move(given.id, sealed=b"")
    assert find(twin, given.id) == Missing(certain=True)
    assert listed(twin) == [newer.id, older.id]
    assert listed(twin, older_than=given.id) == [older.id]  # a client may hold its id


def test_a_missing_row_is_certain_once_everything_accepted_before_is_folded(twin: RowsTwin) -> None:
    given, other = accepted(), accepted(channel=Channel.SMS)
    save(twin, given)
    assert find(twin, ids.new(NOW)) == Missing(certain=True)
    twin.accept(other)
    assert find(twin, other.id) == find(twin, ids.new(NOW)) == Missing(certain=False)
    twin.save()
    assert find(twin, ids.new(NOW)) == Missing(certain=True)


def test_an_id_that_no_ingest_made_is_missing_without_a_query(twin: RowsTwin) -> None:
    absurd = UUID(int=(1 << 48) - 1 << 80 | 7 << 76 | 2 << 62)
    with twin.away():
        assert find(twin, uuid4()) == find(twin, absurd) == Missing(certain=True)


def test_a_read_waits_for_a_row_on_its_way(twin: RowsTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROW_WAIT_SECONDS", WAIT_SECONDS)
    given = accepted()
    twin.accept(given)

    async def read() -> NotificationRow | Missing:
        found = asyncio.ensure_future(twin.rows.notification(SERVICE, given.id))
        await until(lambda: twin.looks)
        twin.save()
        return await found

    assert isinstance(ask(read()), NotificationRow)


def test_another_services_notification_is_missing(twin: RowsTwin) -> None:
    given = accepted()
    save(twin, given)
    assert find(twin, given.id, OTHER) == Missing(certain=True)


def test_the_loser_of_an_idempotency_key_is_read_as_its_winner(twin: RowsTwin) -> None:
    older, winner, loser = accepted(), keyed(b"key", b"body"), keyed(b"key", b"body")
    save(twin, older, winner)
    save(twin, loser)
    assert find(twin, loser.id) == find(twin, winner.id) == saved(winner)
    assert find(twin, loser.id, OTHER) == Missing(certain=True)
    assert listed(twin) == [winner.id, older.id]
    assert listed(twin, older_than=loser.id) == [older.id]


def test_an_idempotency_key_stands_for_its_first_notification_once_that_is_saved(
    twin: RowsTwin,
) -> None:
    first, another = keyed(b"key", b"body"), keyed(b"key", b"another", template_version=9)
    twin.accept(first)
    assert ask(twin.rows.first(SERVICE, b"key")) is None
    twin.save()
    save(twin, another)
    assert ask(twin.rows.first(SERVICE, b"key")) == FirstNotification(first.id, b"body", 3)
    assert ask(twin.rows.first(OTHER, b"key")) is None
    assert ask(twin.rows.first(SERVICE, b"key of nobody")) is None


def test_two_services_may_use_the_same_idempotency_key(twin: RowsTwin) -> None:
    ours, theirs = keyed(b"key", b"body"), keyed(b"key", b"b", service_id=OTHER)
    save(twin, ours, theirs)
    assert ask(twin.rows.first(SERVICE, b"key")) == FirstNotification(ours.id, b"body", 3)
    assert ask(twin.rows.first(OTHER, b"key")) == FirstNotification(theirs.id, b"b", 3)


def first_job(twin: RowsTwin, key_hash: bytes) -> FirstJob | None:
    """Return the first job with a key. Postgres's clock says when it was folded and read."""
    first = ask(twin.jobs.first(SERVICE, key_hash))
    return first and replace(first, job=replace(first.job, stored_at=NOW, now=NOW))


def test_an_idempotency_key_stands_for_its_first_job(twin: RowsTwin) -> None:
    of_key = {"service_id": SERVICE, "idempotency_key": b"key", "body_hash": b"body"}
    first = upload(5, **of_key, scheduled_for=NOW, sender_id=UUID(int=4)).seal
    second = upload(3, **{**of_key, "body_hash": b"another"}).seal
    twin.accept(first)
    assert ask(twin.jobs.first(SERVICE, b"key")) is None
    twin.save()
    twin.accept(second)
    twin.save()
    assert first_job(twin, b"key") == FirstJob(
        replace(stored_job(first), now=NOW, stored_at=NOW), b"body"
    )
    assert ask(twin.jobs.first(OTHER, b"key")) is None


def test_a_key_of_a_job_finds_no_notification_and_a_key_of_a_notification_finds_no_job(
    twin: RowsTwin,
) -> None:
    twin.accept(upload(1, service_id=SERVICE, idempotency_key=b"job", body_hash=b"b").seal)
    save(twin, keyed(b"single", b"body"))
    assert ask(twin.rows.first(SERVICE, b"job")) is None
    assert ask(twin.jobs.first(SERVICE, b"single")) is None


def test_pages_are_in_the_order_of_acceptance_and_complete(twin: RowsTwin) -> None:
    # An Idempotency-Key gives an id any moment of its day; two at a time come at one moment.
    made = [
        accepted(number // 2, id=ids.derived_in(NOW, b"of a key", number.to_bytes(2)))
        for number in range(PAGE_ROWS + 5)
    ]
    save(twin, *made)
    made.sort(key=lambda each: (each.accepted_at, each.id), reverse=True)
    wanted = [each.id for each in made]
    assert wanted != sorted(wanted, reverse=True)
    assert listed(twin) == wanted[:PAGE_ROWS]
    assert listed(twin, older_than=wanted[2]) == wanted[3 : PAGE_ROWS + 3]
    assert listed(twin, older_than=wanted[PAGE_ROWS - 1]) == wanted[PAGE_ROWS:]
    assert listed(twin, older_than=wanted[-1]) == []


def test_no_row_is_older_than_a_row_that_the_service_does_not_have(twin: RowsTwin) -> None:
    given, stranger = accepted(), accepted(service_id=OTHER)
    save(twin, given, stranger)
    assert listed(twin, older_than=uuid4()) == listed(twin, older_than=ids.new(NOW)) == []
    assert listed(twin, older_than=stranger.id) == []
    assert listed(twin, service_id=OTHER) == [stranger.id]


def test_a_list_has_the_rows_that_its_filter_allows(twin: RowsTwin) -> None:
    email, test = accepted(reference="a"), accepted(key_type=KeyType.TEST)
    sms = accepted(channel=Channel.SMS, reference="b")
    of_job = accepted(job_id=uuid4(), job_row=1, lane=Lane.BULK)
    save(twin, email, test, sms, of_job)
    twin.move(sms.id, state="sending")

    def states(*pairs: tuple[State, Channel]) -> list[UUID]:
        return listed(twin, states=frozenset(pairs))

    assert listed(twin) == [sms.id, email.id]
    assert listed(twin, with_jobs=True) == [of_job.id, sms.id, email.id]
    assert listed(twin, key_type=KeyType.TEST) == [test.id]
    assert listed(twin, reference="a") == [email.id]
    assert listed(twin, channels=frozenset({"sms", "letter"})) == [sms.id]
    assert listed(twin, channels=frozenset({"letter"})) == []
    assert states((State.SENDING, Channel.SMS)) == [sms.id]
    assert states((State.CREATED, Channel.EMAIL), (State.SENDING, Channel.SMS)) == listed(twin)
    assert states((State.SENDING, Channel.EMAIL), (State.CREATED, Channel.SMS)) == states() == []
    assert listed(twin, older_than=of_job.id, reference="a") == [email.id]


def test_while_postgres_is_down_reads_raise_unavailable_and_no_key_is_known(twin: RowsTwin) -> None:
    given, job = keyed(b"key", b"body"), {"idempotency_key": b"job", "body_hash": b"body"}
    twin.accept(upload(1, service_id=SERVICE, **job).seal)
    save(twin, given)

    def known() -> tuple[object, object, object]:
        first, job = ask(twin.rows.first(SERVICE, b"key")), ask(twin.jobs.first(SERVICE, b"job"))
        return first, job, ask(twin.rows.version())

    with twin.away():
        for _ in range(2):
            assert known() == (None, None, None)
            with pytest.raises(Unavailable):
                find(twin, given.id)
            with pytest.raises(Unavailable):
                listed(twin)
    assert all(known())
    assert listed(twin) == [given.id]


def test_a_key_is_not_known_when_no_answer_comes_in_time(
    twin: RowsTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(twin, keyed(b"key", b"body"))
    monkeypatch.setattr(reading, "KEY_LOOKUP_SECONDS", 0.05)
    with twin.slow():
        assert ask(twin.rows.first(SERVICE, b"key")) is None
        assert ask(twin.jobs.first(SERVICE, b"key")) is None
