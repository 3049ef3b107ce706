"""Which job an Idempotency-Key stands for, on the fake store and on PostgreSQL.

A: an upload. B: the same file after midnight, with another id. C: the same file days later.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from courant import ids
from courant.contracts import ChunkOrder, Command, JobCommand, JobRecord, Notification, Seal
from courant.records import Batch, Dead, Keep, Outgoing, Record, span_of
from courant.testing.builders import NOW, id_of, number_of, partition
from courant.testing.kafka import FakeProducer
from courant.testing.world import World
from courant.topics import CHUNKS, JOBS
from job_runner import handle
from job_runner.dispatch import Dispatcher
from simulation.job_twins import FakeJobsTwin, PostgresJobsTwin, Twin
from support.job_runner import RING, Upload, upload, written


@pytest.fixture(params=["fake", "postgres"])
def make(request: pytest.FixtureRequest) -> Callable[[], Twin]:
    """Return a function that makes an empty store, as a restored Postgres is."""
    if request.param == "fake":
        return FakeJobsTwin
    engine = request.getfixturevalue("engine")
    return lambda: PostgresJobsTwin(engine)


def keyed(number: int, hours: float = 0.0, body: bytes = b"body") -> Upload:
    at = NOW + timedelta(hours=hours)
    values: dict[str, Any] = {"idempotency_key": b"key", "body_hash": body, "accepted_at": at}
    return upload(3, job_id=id_of(number), **values)


A, B, C = keyed(1), keyed(2, 0.001), keyed(3, 96)
OTHER = keyed(2, 0.001, b"another")


def read(twin: Twin, records: Sequence[JobRecord], first: int = 0) -> list[Dead | Outgoing]:
    """Fold each record in a batch of its own; return what follows from them."""
    followed = []
    for offset, each in enumerate(records, first):
        out = written(each)
        record = Record(partition(JOBS.name), offset, out.key, out.value, (), NOW)
        batch: Batch[JobRecord] = Batch([Keep(record, each)], [], span_of([record]))
        for step in handle.fold_jobs(twin.store, batch):
            followed += list(step)
    return followed


def records(*uploads: Upload) -> list[JobRecord]:
    return [each for given in uploads for each in (*given.chunks, given.seal)]


def jobs(twin: Twin) -> list[int]:
    found: Any = twin.rest()
    return [number_of(id) for id, *_ in found[0]]


def aliases(twin: Twin) -> list[tuple[int, int]]:
    found: Any = twin.rest()
    return [(number_of(id), number_of(winner)) for id, winner in found[4]]


def commands(twin: Twin) -> list[tuple[int, str]]:
    found: Any = twin.rest()
    return [(number_of(id), command) for id, command in found[2]]


def spread(twin: Twin) -> list[Notification]:
    """Order what may be ordered, and turn it into notifications."""
    kafka = World().kafka
    Dispatcher(twin.rounds, FakeProducer(kafka), 3600.0).run_round()
    made: list[Notification] = []
    for part in kafka.partitions(CHUNKS.name):
        kept = [Keep(each, ChunkOrder.decode(each.value)) for each in kafka.log[part]]
        batch: Batch[ChunkOrder] = Batch(kept, [], span_of(kafka.log[part]))
        for step in handle.expand_chunks(twin.store, RING, batch):
            made += [Notification.decode(each.value) for each in step if isinstance(each, Outgoing)]
    return made


def row_ids(job: int) -> set[Any]:
    return {ids.of_row(id_of(job), row) for row in (1, 2, 3)}


def test_a_restored_postgres_makes_the_same_rows_in_any_order(make: Callable[[], Twin]) -> None:
    for order in ([A, B], [B, A]):
        twin = make()
        assert read(twin, records(*order)) == []
        assert (jobs(twin), aliases(twin)) == ([1], [(2, 1)])
        assert {each.id for each in spread(twin)} == row_ids(1)


def test_a_job_that_has_begun_stays_also_when_the_log_is_read_again(
    make: Callable[[], Twin],
) -> None:
    twin = make()
    read(twin, records(B))
    assert {each.id for each in spread(twin)} == row_ids(2)
    [again] = read(twin, records(A), len(records(B)))
    assert isinstance(again, Outgoing)
    seal = handle.rules.decode_job(again.value)
    assert isinstance(seal, Seal)
    assert (seal.job_id, seal.instead_of, seal.upload_id) == (id_of(2), id_of(1), B.seal.upload_id)
    assert (jobs(twin), aliases(twin)) == ([2], [(1, 2)])
    assert spread(twin) == []
    for order in permutations([A, B, seal]):
        restored = make()
        given = [each for one in order for each in ([one] if one is seal else records(one))]  # type: ignore[arg-type]
        read(restored, given)
        assert (jobs(restored), aliases(restored)) == ([2], [(1, 2)])
        assert {each.id for each in spread(restored)} == row_ids(2)


def test_a_key_used_again_after_two_days_is_another_job_in_any_order(
    make: Callable[[], Twin],
) -> None:
    for order in permutations([A, B, C]):
        twin = make()
        assert read(twin, records(*order)) == []
        assert (jobs(twin), aliases(twin)) == ([1, 3], [(2, 1)])


def test_another_body_is_a_cancelled_job_in_any_order(make: Callable[[], Twin]) -> None:
    for order in ([A, OTHER], [OTHER, A]):
        twin = make()
        dead = read(twin, records(*order))
        assert len(dead) == (order[0] is A)
        assert (jobs(twin), aliases(twin), commands(twin)) == ([1, 2], [], [(2, "cancelled")])
        assert {each.id for each in spread(twin)} == row_ids(1)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_command_to_a_repetition_is_a_command_to_its_job(
    make: Callable[[], Twin], when: str
) -> None:
    command = [JobCommand(job_id=id_of(2), command=Command.CANCELLED, at=NOW)]
    for one, other in ((A, B), (B, A)):
        twin = make()
        parts = [records(one), records(other)]
        parts.insert(["before", "between", "after"].index(when), list(command))
        read(twin, [each for part in parts for each in part])
        assert (1, "cancelled") in commands(twin)
        assert spread(twin) == []


def test_reading_again_changes_nothing(make: Callable[[], Twin]) -> None:
    twin = make()
    other = keyed(4, 1, b"another")
    read(twin, records(A, B, C, other))
    before = jobs(twin), aliases(twin), commands(twin)
    for order in permutations([A, B, C, other]):
        assert read(twin, records(*order)) == []
        assert (jobs(twin), aliases(twin), commands(twin)) == before
