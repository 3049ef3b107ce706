"""Random sequences of steps of jobs: the fake stores and PostgreSQL must show the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from courant import bulk
from courant.contracts import (
    Chunk,
    Command,
    JobCommand,
    JobRecord,
    JobRow,
    KeyType,
    Seal,
    decode_job,
)
from courant.errors import Behind
from courant.lifecycle import State
from courant.postgres import jobs, keys
from courant.records import Batch, Dead, Effect, Keep, Record, Span, span_of
from courant.testing.builders import NOW, id_of, partition
from courant.testing.kafka import FakeProducer
from courant.testing.world import World
from courant.topics import CHUNKS, JOBS, Channel
from job_runner import dispatch_store, handle, store
from job_runner.dispatch import Dispatcher
from job_runner.handle import Store
from recovery import store as recovery_store
from simulation.job_twins import FAR, FakeJobsTwin, PostgresJobsTwin, Twin
from support.job_runner import RING, written
from support.mistakes import replace

# By upload: the job that its seal names, and the body that came with the key. All uploads but the
# first have the same key.
JOBS_OF = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}
BODIES = {2: b"body", 3: b"body", 4: b"body", 5: b"another body"}
HOURS = {4: -1, 5: 1}  # when an upload was accepted, from when the others were


def upload_id(number: int) -> UUID:
    return UUID(int=number)


def chunk(upload: int, number: int) -> Chunk:
    """Return a chunk; the first one has two rows, the second one has one."""
    rows = [JobRow(to=f"{upload}-{number}-{n}", recipient_hash=b"h") for n in range(2 - number)]
    return bulk.pack(RING, upload_id(upload), number, 1 + 2 * number, rows)


MADE = {(upload, number): chunk(upload, number) for upload in JOBS_OF for number in (0, 1)}


def seal(upload: int, whole: bool, due: bool) -> Seal:
    prints = [bulk.fingerprint(MADE[upload, number].sealed) for number in (0, 1)]
    return Seal(
        job_id=id_of(JOBS_OF[upload]),
        upload_id=upload_id(upload),
        chunks=2,
        rows=3,
        digest=bulk.digest(prints if whole else prints[:1]),
        service_id=UUID(int=7),
        key_id=UUID(int=8),
        key_type=KeyType.NORMAL,
        template_id=UUID(int=9),
        template_version=3,
        channel=Channel.EMAIL,
        name=b"sealed",
        accepted_at=NOW + timedelta(hours=HOURS.get(upload, 0)),
        scheduled_for=None if due else FAR,
        idempotency_key=b"key" if upload in BODIES else None,
        body_hash=BODIES.get(upload),
    )


def sealed_again(due: bool) -> Seal:
    """Return the seal that says that the job of upload 2 counts, although that of 4 is earlier."""
    return msgspec.structs.replace(seal(2, True, due), instead_of=id_of(JOBS_OF[4]))


def command(job: int, command: Command, second: int) -> JobCommand:
    return JobCommand(job_id=id_of(job), command=command, at=NOW + timedelta(seconds=second))


UPLOADS, JOB_NUMBERS = st.integers(1, 5), st.sampled_from([1, 1, 2, 3])
OFTEN = st.sampled_from([True, True, True, False])
COMMANDS = st.builds(command, JOB_NUMBERS, st.sampled_from(Command), st.integers(0, 2))


def whole(upload: int, due: bool = True) -> list[JobRecord]:
    return [MADE[upload, 0], MADE[upload, 1], seal(upload, True, due)]


RECORDS = st.one_of(
    st.builds(whole, UPLOADS, OFTEN),
    st.builds(lambda one, other: whole(one) + whole(other), UPLOADS, UPLOADS),
    st.builds(lambda upload, number: [MADE[upload, number]], UPLOADS, st.integers(0, 1)),
    st.builds(lambda *values: [seal(*values)], UPLOADS, OFTEN, OFTEN),
    st.lists(COMMANDS, min_size=1, max_size=3),
    st.builds(lambda due: [sealed_again(due)], OFTEN),
)
STATES = st.sampled_from([("created", 0), ("created", 2), ("sending", 1), ("delivered", 1)])
ACTS = st.one_of(
    st.tuples(st.just("keep"), RECORDS, st.sampled_from([0, 0, 0, 0, -2, 1]), OFTEN),
    st.tuples(st.just("keep"), RECORDS, st.just(0), st.just(True)),
    st.tuples(st.just("round")),
    st.tuples(st.just("round")),
    st.tuples(st.just("rows"), JOB_NUMBERS, st.sets(st.integers(1, 3), min_size=1), STATES),
    st.tuples(st.just("rows"), JOB_NUMBERS, st.just({1, 2, 3}), STATES),
    st.tuples(st.just("chunk"), JOB_NUMBERS, st.integers(0, 1)),
    st.tuples(st.just("hold"), st.booleans()),
    st.tuples(st.just("incomplete")),
    st.tuples(st.just("cancelled")),
)
Acts = list[tuple[Any, ...]]
ROUND, STORED = ("round",), ("rows", 1, {1, 2, 3}, ("created", 0))
WHOLE, LATER = ("keep", whole(1), 0, True), ("keep", whole(1, due=False), 0, True)
CANCELLED, PAUSED = (
    ("keep", [command(1, last, 0)], 0, True) for last in (Command.CANCELLED, Command.PAUSED)
)
SECOND, EARLIER = ("keep", whole(2), 0, True), ("keep", whole(4), 0, True)
OF_SECOND = ("keep", [command(2, Command.PAUSED, 1)], 0, True)
OUTDATED = ("keep", [command(1, Command.PAUSED, 2), command(1, Command.RESUMED, 0)], 0, True)
# The first steps, so that more of the sequences come to something.
FIRST: list[Acts] = [
    [],
    [LATER],
    [PAUSED, WHOLE],
    [WHOLE, ROUND],
    [WHOLE, ROUND, CANCELLED],
    [WHOLE, ROUND, PAUSED, STORED],
    [OUTDATED],
    [SECOND, ROUND, EARLIER],
    [OF_SECOND, SECOND, EARLIER],
    [SECOND, EARLIER, OF_SECOND],
]
PLAYS = st.builds(
    lambda first, acts: first + acts,
    st.sampled_from(FIRST),
    st.lists(ACTS, min_size=3, max_size=9),
)


class Undone(Exception):
    """Raised to roll a transaction back."""


class Undoing:
    """A store that rolls every transaction back at its end."""

    def __init__(self, store: Store) -> None:
        self._fold = store.fold

    @contextmanager
    def fold(self, span: Span) -> Iterator[handle.Fold]:
        with self._fold(span) as fold:
            yield fold
            raise Undone


class Story:
    """The steps that a test can do with the stores."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.kafka = World().kafka
        self.dispatcher = Dispatcher(twin.rounds, FakeProducer(self.kafka), 3600.0)
        self.end = 0

    def keep(self, records: list[JobRecord], shift: int, done: bool) -> object:
        at, store = max(0, self.end + shift), self.twin.store
        kept = [Keep(record_of(each, at + nth), each) for nth, each in enumerate(records)]
        batch: Batch[JobRecord] = Batch(kept, [], span_of([each.record for each in kept]))
        try:
            steps = handle.fold_jobs(store if done else Undoing(store), batch)  # type: ignore[arg-type]
            dead = [[shown(each) for each in step] for step in steps]
        except (Behind, Undone) as error:
            # A hold stands in both now. The step `hold` tests what it does to a round.
            return type(error)
        self.end = max(self.end, at + len(records))
        return dead

    def round(self) -> object:
        before = self.ordered()
        return self.dispatcher.run_round(), sorted(self.ordered() - before)

    def ordered(self) -> set[tuple[int, int, bytes]]:
        return {
            (each.partition.number, each.offset, each.value)
            for part in self.kafka.partitions(CHUNKS.name)
            for each in self.kafka.log[part]
        }

    def rows(self, job: int, numbers: set[int], state: tuple[str, int]) -> None:
        for number in sorted(numbers):
            self.twin.put(id_of(job), number, State(state[0]), state[1])

    def chunk(self, job: int, number: int) -> object:
        return self.twin.store.chunk(id_of(job), number)

    def hold(self, stands: bool) -> None:
        self.twin.hold(stands)

    def incomplete(self) -> object:
        with self.twin.sweeping() as rows:
            found = rows.incomplete(FAR, 10)
            rows.ordered(found)
        return sorted((each.job_id, each.number, each.first, each.rows) for each in found)

    def cancelled(self) -> object:
        with self.twin.sweeping() as rows:
            return sorted((each.id, each.attempt) for each in rows.cancelled(FAR, 10))


def shown(written: Effect) -> object:
    """Return a dead letter's offset; of a seal that is written again its two jobs."""
    if isinstance(written, Dead):
        return written.record.offset
    seal = decode_job(written.value)
    assert isinstance(seal, Seal)
    return seal.job_id, seal.upload_id, seal.instead_of, seal.accepted_at


def record_of(record: JobRecord, offset: int) -> Record:
    out = written(record)
    return Record(partition(JOBS.name), offset, out.key, out.value, (), NOW)


def play(twin: Twin, acts: Acts) -> list[object]:
    """Run the steps; return the result of each, and the tables after it."""
    story = Story(twin)
    seen: list[object] = []
    for name, *values in acts:
        seen += [getattr(story, name)(*values), twin.rest()]
        if seen[-2] is Behind:
            break  # both holds stand now, so that no later step can change anything
    return seen


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PLAYS)
def test_fake_and_postgres_show_the_same_after_each_step(engine: Engine, acts: Acts) -> None:
    assert play(FakeJobsTwin(), acts) == play(PostgresJobsTwin(engine), acts)


def test_a_job_is_stuck_after_five_orders_of_a_chunk_without_rows(engine: Engine) -> None:
    for twin in (FakeJobsTwin(), PostgresJobsTwin(engine)):
        story = Story(twin)
        story.keep(whole(1), 0, True)
        for _ in range(2):
            story.round()
            story.incomplete()
        seen = []
        for _ in range(2):
            story.incomplete()
            with twin.rounds.round() as turn:
                assert turn
                seen.append(turn.stuck_jobs())
        assert seen == [[], [id_of(1)]]


# By description: the owner, the name in it, the right words, and the wrong ones.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    "a cancelled job can be resumed": (
        store,
        "STORE_COMMAND",
        "w.wish <> 'cancelled'",
        "true",
    ),
    "an older command holds": (
        store,
        "STORE_COMMAND",
        "excluded.wished_at >= w.wished_at",
        "true",
    ),
    "a chunk overwritten": (
        store,
        "STORE_CHUNK",
        "DO NOTHING",
        "(upload_id, number) DO UPDATE SET orders = 9",
    ),
    "no aliases": (
        keys,
        "ALIAS",
        "VALUES (%(id)s, %(winner)s)",
        "SELECT %(id)s::uuid, %(winner)s::uuid WHERE false",
    ),
    "a begun job gives way": (store, "MOVABLE", "started_at IS NULL AND ", ""),
    "the repetition stays a job": (store, "REMOVE", "WHERE id = %s", "WHERE false AND id = %s"),
    "commands to a repetition lost": (store, "CARRY_COMMAND", "job_id = %(loser)s", "false"),
    "a command to an alias lost": (store, "STORE_COMMAND", "WHERE id = %(id)s", "WHERE false"),
    "chunks of cancelled jobs returned": (store, "CHUNK", "w.wish = 'cancelled'", "false"),
    "another job's rows counted": (jobs, "COUNT", "AND n.job_id = c.job_id", ""),
    "tried rows counted as waiting": (jobs, "COUNT", "AND n.attempt = 0", ""),
    "orders not counted": (jobs, "ORDERED", "orders + 1", "orders"),
    "settled not noted": (jobs, "SETTLED", "AND settled_at IS NULL", "AND false"),
    "saved not noted": (jobs, "SAVED", "AND saved_at IS NULL", "AND false"),
    "hold of jobs ignored": (dispatch_store, "STOPPED", "'jobs', ", ""),
    "stopped jobs ordered": (dispatch_store, "WAITING", "w.wish <> 'resumed'", "false"),
    "started before its time": (
        dispatch_store,
        "WAITING",
        "coalesce(j.scheduled_for <= now(), true)",
        "true",
    ),
    "finished with chunks under way": (
        dispatch_store,
        "FINISH",
        "(settled_at IS NULL OR saved_at IS NULL)",
        "false",
    ),
    "cancelled and not finished": (dispatch_store, "FINISH", "w.wish = 'cancelled'", "false"),
    "chunks of cancelled jobs ordered again": (
        recovery_store,
        "UNSAVED",
        "w.wish = 'cancelled'",
        "false",
    ),
    "rows of paused jobs cancelled": (
        recovery_store,
        "CANCELLED",
        "w.wish = 'cancelled'",
        "true",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_twins_of_jobs_detect_the_mistake(
    mistake: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, *MISTAKES[mistake])
    find(
        PLAYS,
        lambda acts: play(FakeJobsTwin(), acts) != play(PostgresJobsTwin(engine), acts),
        settings=settings(
            max_examples=500,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
        random=Random(1),
    )
