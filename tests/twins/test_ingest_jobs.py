"""The same tests of the jobs that ingest reads, on the fake and on PostgreSQL."""

import asyncio
import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from courant import bulk, ids
from courant.contracts import ENCODE, Command, Content, JobRow, KeyType
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.topics import Channel
from ingest.callers.auth import Caller
from ingest.jobs import report
from ingest.jobs.rows import Job
from ingest.jobs.store import PAGE_JOBS, RowRange, StoredChunk, StoredRow
from ingest.read import store
from ingest.read.store import Missing
from support.ingest.job_twins import FakeJobsTwin, JobsTwin, PostgresJobsTwin
from support.ingest.jobs import NOW, ChunkRow, job
from support.ingest.twins import WAIT_SECONDS, ask, until
from support.ingest.world import RING, key, service

OTHER = UUID(int=0x5E2)
OURS, THEIRS = Caller(service(), key(1)), Caller(service(id=OTHER), key(9, service=OTHER))


@pytest.fixture(params=["fake", "postgres"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsTwin]:
    # What is missing stays so: none of the tests but one has to wait for it.
    monkeypatch.setattr(store, "ROW_WAIT_SECONDS", 0.0)
    if request.param == "fake":
        yield FakeJobsTwin()
        return
    real = PostgresJobsTwin(request.getfixturevalue("engine"))
    yield real
    real.close()


def find(twin: JobsTwin, id: UUID, caller: Caller = OURS) -> Job | Missing:
    """Return a job as it was read; when it was read is Postgres's time."""
    found = ask(twin.jobs.job(caller, id))
    return replace(found, now=NOW) if isinstance(found, Job) else found


def page(twin: JobsTwin, older_than: UUID | None = None, caller: Caller = OURS) -> list[UUID]:
    return [each.id for each in ask(twin.jobs.page(caller, older_than))]


def sealed(**more: Any) -> Job:
    """Return a job whose chunks have not come yet."""
    return job(RING, **{"chunks_stored": 0, **more})


def stored(given: Job, number: int, state: State = State.CREATED, **more: Any) -> StoredRow:
    id = ids.of_row(given.id, number)
    content = RING.encrypt(ENCODE(Content(to=f"{number}@example.com")), owner=id.bytes)
    values = {"reference": None, "sent_at": None, "reason": None, "response": None, **more}
    return StoredRow(job_row=number, id=id, sealed=content, state=state, state_at=NOW, **values)


def chunk(given: Job, number: int, first: int, rows: int) -> ChunkRow:
    to = [JobRow(to=f"waits-{first + n}@example.com", recipient_hash=b"h") for n in range(rows)]
    packed = bulk.pack(RING, given.upload_id, number, first, to)
    return ChunkRow(number, first, rows, packed.sealed)


def test_a_job_is_read_as_it_is_stored(twin: JobsTwin) -> None:
    plain = twin.put(sealed())
    full = twin.put(
        sealed(
            chunks=3,
            rows=1_200,
            channel=Channel.SMS,
            template_version=4,
            sender_id=uuid4(),
            scheduled_for=NOW + timedelta(hours=1, microseconds=7),
            started_at=NOW,
            finished_at=NOW + timedelta(seconds=1),
        )
    )
    assert find(twin, plain.id) == plain
    assert find(twin, full.id) == full


def test_a_job_is_read_with_the_number_of_its_stored_chunks(twin: JobsTwin) -> None:
    given, other = twin.put(sealed(chunks=2, rows=4)), twin.put(sealed())
    twin.chunk(given, chunk(given, 1, 3, 2))
    assert find(twin, given.id) == replace(given, chunks_stored=1)
    twin.chunk(given, chunk(given, 0, 1, 2))
    assert find(twin, given.id) == replace(given, chunks_stored=2)
    assert find(twin, other.id) == other


def test_a_command_is_read_with_its_job(twin: JobsTwin) -> None:
    given, other = twin.put(sealed()), twin.put(sealed())
    for seconds, wish in enumerate((Command.PAUSED, Command.RESUMED, Command.CANCELLED)):
        at = NOW + timedelta(seconds=seconds)
        twin.want(given, wish, at)
        assert find(twin, given.id) == replace(given, command=wish, commanded_at=at)
    assert find(twin, other.id) == other


def test_a_missing_row_is_certain_once_everything_accepted_before_is_folded(twin: JobsTwin) -> None:
    twin.folded(everything=False)
    assert find(twin, ids.new(NOW)) == Missing(certain=False)
    twin.folded(everything=True)
    assert find(twin, ids.new(NOW)) == Missing(certain=True)


def test_an_id_that_no_ingest_made_is_missing_without_a_query(twin: JobsTwin) -> None:
    absurd = UUID(int=(1 << 48) - 1 << 80 | 7 << 76 | 2 << 62)
    twin.folded(everything=False)
    with twin.away():
        assert find(twin, uuid4()) == find(twin, absurd) == Missing(certain=True)


def test_a_read_waits_for_a_job_on_its_way(twin: JobsTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROW_WAIT_SECONDS", WAIT_SECONDS)
    twin.folded(everything=False)
    given = sealed()

    async def read() -> Job | Missing:
        found = asyncio.ensure_future(twin.jobs.job(OURS, given.id))
        await until(lambda: twin.looks)
        twin.put(given)
        return await found

    assert isinstance(ask(read()), Job)


def test_a_job_of_another_service_or_key_type_is_missing(twin: JobsTwin) -> None:
    twin.folded(everything=True)
    ours, theirs = twin.put(sealed()), twin.put(sealed(), OTHER)
    test = twin.put(sealed(key_type=KeyType.TEST))
    assert find(twin, ours.id, THEIRS) == find(twin, theirs.id) == Missing(certain=True)
    assert find(twin, test.id) == Missing(certain=True)
    assert find(twin, test.id, Caller(service(), key(3, KeyType.TEST))) == test
    assert (page(twin), page(twin, caller=THEIRS)) == ([ours.id], [theirs.id])


def test_the_loser_of_an_idempotency_key_is_read_as_its_winner(twin: JobsTwin) -> None:
    twin.folded(everything=True)
    older = twin.put(sealed(accepted_at=NOW - timedelta(hours=1)))
    winner, loser = twin.put(sealed()), ids.new(NOW)
    twin.alias(loser, winner.id)
    assert find(twin, loser) == winner
    assert find(twin, loser, THEIRS) == Missing(certain=True)
    assert page(twin, loser) == [older.id]


def test_pages_are_in_the_order_of_acceptance_and_complete(twin: JobsTwin) -> None:
    # An Idempotency-Key gives an id any moment of its day; two at a time come at one moment.
    made = [
        twin.put(
            sealed(
                id=ids.derived_in(NOW, b"of a key", number.to_bytes(2)),
                accepted_at=NOW + timedelta(seconds=number // 2),
            )
        )
        for number in range(PAGE_JOBS + 5)
    ]
    made.sort(key=lambda each: (each.accepted_at, each.id), reverse=True)
    wanted = [each.id for each in made]
    assert wanted != sorted(wanted, reverse=True)
    assert page(twin) == wanted[:PAGE_JOBS]
    assert page(twin, wanted[2]) == wanted[3 : PAGE_JOBS + 3]
    assert page(twin, wanted[PAGE_JOBS - 1]) == wanted[PAGE_JOBS:]
    assert page(twin, wanted[-1]) == []


def test_no_job_is_older_than_a_job_that_the_caller_does_not_have(twin: JobsTwin) -> None:
    twin.put(sealed(accepted_at=NOW - timedelta(hours=1)))
    theirs, test = twin.put(sealed(), OTHER), twin.put(sealed(key_type=KeyType.TEST))
    for id in (uuid4(), ids.new(NOW), theirs.id, test.id):
        assert page(twin, id) == []


def test_rows_are_counted_by_their_states(twin: JobsTwin) -> None:
    given = twin.put(sealed(rows=4))
    # Rows of jobs of the same millisecond lie among each other.
    beside = twin.put(sealed(id=UUID(int=given.id.int ^ 1)))
    for number, state in enumerate((State.SENDING, State.CREATED, State.SENDING), 1):
        twin.row(given, stored(given, number, state))
    twin.row(beside, stored(beside, 1, State.DELIVERED))
    counted = ask(twin.jobs.count_rows(given))
    assert dict(counted.states) == {State.SENDING: 2, State.CREATED: 1}
    assert (counted.settled, counted.settled_recently) == (0, 0)


def test_rows_of_settled_chunks_are_counted_and_the_recently_settled_ones_as_well(
    twin: JobsTwin,
) -> None:
    given, other = twin.put(sealed(chunks=3, rows=7)), twin.put(sealed())
    twin.chunk(given, chunk(given, 0, 1, 4), settled_for=timedelta(hours=1))
    twin.chunk(given, chunk(given, 1, 5, 2), settled_for=timedelta(0))
    twin.chunk(given, chunk(given, 2, 7, 1))
    counted = ask(twin.jobs.count_rows(given))
    assert (dict(counted.states), counted.settled, counted.settled_recently) == ({}, 6, 2)
    assert ask(twin.jobs.count_rows(other)).settled == 0


def test_a_job_has_nothing_to_send_when_no_row_is_created_or_claimed(twin: JobsTwin) -> None:
    quiet = {}
    for state in State:
        given = twin.put(sealed())
        twin.row(given, stored(given, 1, State.DELIVERED))
        twin.row(given, stored(given, 2, state))
        quiet[state] = ask(twin.jobs.nothing_to_send(given))
    assert {state for state in State if not quiet[state]} == {State.CREATED, State.CLAIMED}


def test_a_job_that_once_had_nothing_to_send_stays_so(twin: JobsTwin) -> None:
    given = twin.put(sealed())
    row = stored(given, 1, State.CLAIMED)
    for state, quiet in [(State.CLAIMED, False), (State.SENT, True), (State.CREATED, True)]:
        twin.row(given, replace(row, state=state))
        assert ask(twin.jobs.nothing_to_send(given)) is quiet


def read(twin: JobsTwin, given: Job, first: int, last: int) -> RowRange:
    """Return the range that `write` is called with, its rows in order."""
    found: list[RowRange] = []

    def write(read: RowRange) -> bytes:
        found.append(read)
        return b"written"

    assert ask(twin.jobs.read_rows(given, first, last, write)) == b"written"
    [only] = found
    return replace(only, rows=sorted(only.rows, key=lambda row: row.job_row))


def test_a_range_has_its_stored_rows_and_the_chunks_of_the_others(twin: JobsTwin) -> None:
    given = twin.put(sealed(chunks=4, rows=8))
    beside = twin.put(sealed(id=UUID(int=given.id.int ^ 1)))
    sent = {"sent_at": NOW, "reason": "a", "response": "b", "reference": "é"}
    two, five = stored(given, 2), stored(given, 5)
    four = stored(given, 4, State.DELIVERED, **sent)
    for row in (five, two, four):
        twin.row(given, row)
    twin.row(beside, stored(beside, 3))
    made = [chunk(given, number, 2 * number + 1, 2) for number in range(4)]
    for each in reversed(made):
        twin.chunk(given, each)
    parts = [StoredChunk(each.number, each.first, each.sealed) for each in made]
    assert read(twin, given, 2, 5) == RowRange(2, 5, [two, four, five], parts[:3])
    assert read(twin, given, 3, 4) == RowRange(3, 4, [four], parts[1:2])
    assert read(twin, given, 4, 5) == RowRange(4, 5, [four, five], [])
    assert read(twin, given, 6, 8) == RowRange(6, 8, [], parts[2:])


def test_a_report_has_stored_rows_and_rows_that_wait_in_chunks(twin: JobsTwin) -> None:
    given = twin.put(sealed(chunks=2, rows=4))
    twin.row(given, stored(given, 2, State.DELIVERED, sent_at=NOW))
    twin.chunk(given, chunk(given, 0, 1, 3))

    async def write() -> bytes:
        return b"".join([part async for part in report.parts(twin.jobs, given, RING)])

    lines = list(csv.reader(io.StringIO(ask(write()).decode(), newline="")))
    assert [[line[0], line[1], line[4], line[7]] for line in lines[1:]] == [
        ["1", "waits-1@example.com", "pending", ""],
        ["2", "2@example.com", "delivered", "2026-05-06T12:00:00.000000Z"],
        ["3", "waits-3@example.com", "pending", ""],
        ["4", "", "pending", ""],
    ]


def test_while_postgres_is_down_every_read_raises_unavailable(twin: JobsTwin) -> None:
    given = twin.put(sealed())
    with twin.away():
        for _ in range(2):
            for question in (
                twin.jobs.job(OURS, given.id),
                twin.jobs.page(OURS, None),
                twin.jobs.count_rows(given),
                twin.jobs.nothing_to_send(given),
                twin.jobs.read_rows(given, 1, 2, lambda _: b""),
            ):
                with pytest.raises(Unavailable):
                    ask(question)
    assert (find(twin, given.id), page(twin)) == (given, [given.id])
    assert ask(twin.jobs.count_rows(given)).settled == 0


def test_a_count_that_takes_too_long_raises_unavailable_while_jobs_are_still_read(
    twin: JobsTwin,
) -> None:
    given = twin.put(sealed())
    with twin.slow():
        with pytest.raises(Unavailable):
            ask(twin.jobs.count_rows(given))
        assert (find(twin, given.id), page(twin)) == (given, [given.id])
