"""Job-runner on a real PostgreSQL: uploads kept, orders given, no more than their lane takes."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from courant import clock, consume, ids
from courant.contracts import ChunkOrder, Command, Contract, JobCommand, Notification
from courant.crypto import KeyRing
from courant.postgres.database import RECOGNISE
from courant.postgres.days import DAILY, MAKE_DAY
from courant.records import Outgoing
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.world import World
from courant.topics import CHUNKS, INBOX, JOBS, Channel, Lane, dead
from job_runner import dispatch, handle
from job_runner.dispatch import Dispatcher
from job_runner.dispatch_store import PostgresRounds
from job_runner.store import PostgresStore
from support.job_runner import RING, Upload, upload, written
from support.roles import acting

BULK = INBOX.topic(Channel.EMAIL, Lane.BULK)


class Runner:
    """A runner on a real database and a Kafka in memory, and a hand in both."""

    def __init__(self, engine: Engine, lag_seconds: float = 60.0) -> None:
        self.engine = engine
        self.world = World()
        ours = acting(engine, "courant_job_runner")
        self.store = PostgresStore(ours)
        self.producer = FakeProducer(self.world.kafka)
        self.issuer = Dispatcher(PostgresRounds(ours), self.producer, lag_seconds)
        self.jobs, self.chunks = handle.stages(self.store, RING)
        self.consumers = {
            each.group: FakeConsumer(self.world.kafka, each.group, each.topics)
            for each in (self.jobs, self.chunks)
        }

    def ask(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def give(self, *records: Outgoing | Contract) -> None:
        """Write to `jobs`, and let the runner read it."""
        for each in records:
            self.world.kafka.append(each if isinstance(each, Outgoing) else written(each))
        self.step(self.jobs)

    def step(self, stage: consume.Stage[Any], times: int = 1) -> None:
        for _ in range(times):
            consume.step(self.consumers[stage.group], self.producer, stage, comparing=True)

    def spread(self) -> list[Notification]:
        """Let it read all orders; give what is in the inbox since."""
        log, partitions = self.world.kafka.log, self.world.kafka.partitions(BULK)
        ends = {at: len(log[at]) for at in partitions}
        self.step(self.chunks, 20)
        return [
            Notification.decode(each.value) for at in partitions for each in log[at][ends[at] :]
        ]

    def records(self, topic: str) -> list[Any]:
        kafka = self.world.kafka
        return [each for at in kafka.partitions(topic) for each in kafka.log[at]]

    def orders(self) -> list[int]:
        """Return the numbers of all chunks that were ordered."""
        return sorted(ChunkOrder.decode(each.value).number for each in self.records(CHUNKS.name))

    def save(self, made: Sequence[Notification], state: str = "created", attempt: int = 0) -> None:
        """Store notifications as the saver would; the test's own SQL."""
        sql = """INSERT INTO notifications (id, service_id, key_id, key_type, template_id,
            template_version, channel, lane, job_id, job_row, recipient_hash, sealed, accepted_at,
            state, attempt) VALUES (:id, :service_id, :key_id, 'normal', :template_id, 3, 'email',
            'bulk', :job_id, :job_row, '', '', now(), :state, :attempt)
            ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempt = excluded.attempt"""
        for each in made:
            known = {name: getattr(each, name) for name in ("id", "service_id", "key_id")}
            known |= {name: getattr(each, name) for name in ("template_id", "job_id", "job_row")}
            self.ask(sql, **known, state=state, attempt=attempt)

    def letters(self) -> list[str]:
        """Return the reasons of the dead letters."""
        found = self.records(dead(JOBS.name))
        return [dict(each.headers)["courant.reason"].decode() for each in found]


@pytest.fixture
def runner(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setattr(dispatch, "REPORT_EVERY_SECONDS", 0.0)
    made = Runner(engine)
    for table in ("jobs", "chunks", "wishes", "notifications", "events", "positions", "marks"):
        made.ask(f"DELETE FROM {table}")
    made.ask("DELETE FROM holds; DELETE FROM servers; DELETE FROM idempotency; DELETE FROM aliases")
    made.ask(RECOGNISE)
    for table in DAILY:
        with engine.begin() as connection:
            day = {"daily": table, "day": ids.day_at(clock.now())}
            connection.exec_driver_sql(MAKE_DAY, day)
    yield made
    made.ask("DELETE FROM holds; DELETE FROM servers")


def test_a_job_becomes_its_rows_each_once(runner: Runner) -> None:
    made = upload(7)
    runner.give(*made.outgoing())
    assert runner.issuer.run_round() == 3
    assert runner.orders() == [0, 1, 2]
    found = runner.spread()
    assert sorted(each.job_row for each in found if each.job_row) == list(range(1, 8))
    assert {each.id for each in found} == {ids.of_row(made.job_id, row) for row in range(1, 8)}
    assert runner.ask("SELECT started_at IS NULL, finished_at IS NULL FROM jobs") == [(False, True)]


def test_it_is_over_once_all_rows_have_left_their_lane(runner: Runner) -> None:
    runner.give(*upload(20, each=10).outgoing())
    runner.issuer.run_round()
    found = sorted(runner.spread(), key=lambda each: each.id)
    finished = "SELECT finished_at IS NOT NULL FROM jobs"
    runner.save(found[:19], "sending", 1)
    runner.issuer.run_round()
    assert runner.ask(finished) == [(False,)]  # one is not there
    states = "SELECT saved_at IS NULL, settled_at IS NULL FROM chunks ORDER BY number"
    assert runner.ask(states) == [(False, False), (True, False)]  # but it keeps nobody back
    runner.save(found[19:])
    runner.issuer.run_round()
    assert runner.ask(finished) == [(True,)]  # one of ten may wait
    assert runner.ask(states) == [(False, False), (False, False)]
    assert runner.issuer.run_round() == 0


def test_the_whole_log_read_again_changes_nothing_and_floods_nobody(runner: Runner) -> None:
    made = upload(6)
    runner.give(*made.outgoing())
    runner.issuer.run_round()
    runner.save(runner.spread(), "sending", 1)
    before = runner.ask("SELECT * FROM jobs"), runner.ask("SELECT * FROM chunks")
    for stage in (runner.jobs, runner.chunks):
        runner.consumers[stage.group] = FakeConsumer(runner.world.kafka, stage.group, stage.topics)
        runner.consumers[stage.group].seek(
            dict.fromkeys(runner.world.kafka.partitions(stage.topics[0]), 0)
        )
    runner.world.kafka.committed.clear()
    runner.step(runner.jobs, 5)
    assert runner.spread() == []
    assert (runner.ask("SELECT * FROM jobs"), runner.ask("SELECT * FROM chunks")) == before
    assert runner.letters() == []


def test_an_order_that_comes_twice_gives_what_is_not_there_yet(runner: Runner) -> None:
    runner.give(*upload(3).outgoing())
    runner.issuer.run_round()
    order = runner.records(CHUNKS.name)[0]
    first = runner.spread()
    runner.save(first[:2])
    runner.world.kafka.append(Outgoing(CHUNKS.name, order.key, order.value))
    again = runner.spread()
    assert [each.id for each in again] == [each.id for each in first]
    runner.save(first)
    runner.world.kafka.append(Outgoing(CHUNKS.name, order.key, order.value))
    assert runner.spread() == []


def test_a_job_whose_key_is_missing_goes_on_once_the_key_is_there(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"2": b"o" * 32}
    runner.give(*upload(4, ring=KeyRing(other)).outgoing())
    assert runner.issuer.run_round() == 2
    assert runner.spread() == []
    assert runner.letters() == []
    assert "chunk cannot be opened" in caplog.text
    order = runner.records(CHUNKS.name)[0]  # as recovery's sweep writes it again
    _, runner.chunks = handle.stages(runner.store, KeyRing({"1": b"k" * 32, **other}))
    runner.world.kafka.append(Outgoing(CHUNKS.name, order.key, order.value))
    assert len(runner.spread()) == (3 if order.key.endswith(bytes(4)) else 1)


def test_a_job_whose_chunk_is_missing_waits_for_it_and_says_so(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    made = upload(7)
    lost = msgspec.structs.replace(made.chunks[1], sealed=b"torn")
    runner.give(made.chunks[0], lost, made.chunks[2], made.seal)
    assert runner.letters() == ["sealed: does not open"]
    runner.ask("UPDATE jobs SET at = now() - interval '11 s'")
    assert runner.issuer.run_round() == 0
    assert "job lacks rows" in caplog.text
    runner.give(made.chunks[1])  # sent back after the repair
    assert runner.issuer.run_round() == 3


def test_chunks_of_which_one_was_put_in_anothers_place_are_no_job(runner: Runner) -> None:
    made, other = upload(6), upload(6)
    swapped = msgspec.structs.replace(other.seal, upload_id=made.seal.upload_id)
    runner.give(*made.chunks, swapped)
    assert runner.issuer.run_round() == 0


def test_a_scheduled_job_waits_for_its_time(runner: Runner) -> None:
    soon = upload(3, scheduled_for=clock.now() + timedelta(hours=1))
    runner.give(*soon.outgoing())
    assert runner.issuer.run_round() == 0
    runner.ask("UPDATE jobs SET scheduled_for = now() - interval '1 s'")
    assert runner.issuer.run_round() == 1


def test_an_upload_without_rows_is_over_at_once(runner: Runner) -> None:
    runner.give(*upload(0).outgoing())
    runner.issuer.run_round()
    assert runner.ask("SELECT finished_at IS NOT NULL FROM jobs") == [(True,)]


def test_jobs_that_lack_chunks_keep_no_other_of_their_service_back(runner: Runner) -> None:
    for _ in range(30):
        made = upload(6)
        runner.give(made.chunks[0], made.seal)
    runner.ask("UPDATE jobs SET at = now() - interval '11 s'")
    runner.give(*upload(3).outgoing())
    assert runner.issuer.run_round() == 1
    assert metric("courant_jobs_broken") == 30


def metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


def test_chunks_whose_rows_do_not_come_keep_nobody_back_for_long(runner: Runner) -> None:
    runner.give(*upload(60).outgoing())
    assert runner.issuer.run_round() == 4
    runner.give(*upload(30, service_id=UUID(int=70)).outgoing())
    assert runner.issuer.run_round() == 0
    runner.ask("UPDATE chunks SET orders = 2 WHERE orders = 1")  # a sweep had to order them again
    assert runner.issuer.run_round() == 4
    assert metric("courant_jobs_broken") == 0
    runner.ask("UPDATE chunks SET orders = 5 WHERE orders = 2")
    runner.issuer.run_round()
    assert metric("courant_jobs_broken") == 1


def test_what_a_sweep_ordered_again_ends_its_job_once_it_is_there(runner: Runner) -> None:
    runner.give(*upload(3).outgoing())
    runner.issuer.run_round()
    runner.ask("UPDATE chunks SET orders = 3")
    runner.save(runner.spread(), "sending", 1)
    runner.issuer.run_round()
    assert runner.ask("SELECT finished_at IS NOT NULL FROM jobs") == [(True,)]


def test_a_row_that_was_put_aside_ends_no_job_and_stops_none(runner: Runner) -> None:
    runner.give(*upload(20, each=10).outgoing())
    runner.issuer.run_round()
    found = runner.spread()
    runner.save(found[1:], "sending", 1)
    runner.issuer.run_round()
    assert runner.ask("SELECT count(settled_at), count(saved_at) FROM chunks") == [(2, 1)]
    assert runner.ask("SELECT finished_at IS NULL FROM jobs") == [(True,)]


def command(made: Upload, verb: Command, seconds: float = 0) -> JobCommand:
    return JobCommand(job_id=made.job_id, command=verb, at=clock.now() + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("wishes", "left"),
    [
        ([(Command.PAUSED, 0)], "paused"),
        ([(Command.PAUSED, 0), (Command.RESUMED, 1)], "resumed"),
        # By the broker's time, not by the clocks of those who wrote them.
        ([(Command.RESUMED, 1), (Command.PAUSED, 0)], "paused"),
        ([(Command.CANCELLED, 0), (Command.RESUMED, 1)], "cancelled"),  # for good
        ([(Command.RESUMED, 1), (Command.CANCELLED, 0)], "cancelled"),
    ],
)
def test_of_wishes_the_latest_holds_and_cancelled_for_good(
    runner: Runner, wishes: list[tuple[Command, float]], left: str
) -> None:
    made = upload(3)
    runner.give(*(command(made, *each) for each in wishes))
    assert runner.ask("SELECT wish FROM wishes") == [(left,)]
    runner.give(*made.outgoing())  # which may come after
    assert runner.issuer.run_round() == (left == "resumed")


def test_a_cancelled_job_gives_no_more_rows(runner: Runner) -> None:
    made = upload(9)
    runner.give(*made.outgoing())
    runner.issuer.run_round()
    runner.give(command(made, Command.CANCELLED))
    assert runner.spread() == []
    runner.issuer.run_round()
    assert runner.ask("SELECT finished_at IS NOT NULL FROM jobs") == [(True,)]


def test_what_is_paused_keeps_nobody_back(runner: Runner) -> None:
    first, second = upload(30), upload(30, service_id=UUID(int=70))
    runner.give(*first.outgoing())
    assert runner.issuer.run_round() == 4
    assert runner.issuer.run_round() == 0  # so many are out, and none was handled
    runner.give(command(first, Command.PAUSED))
    runner.give(*second.outgoing())
    assert runner.issuer.run_round() == 4


def test_no_orders_are_given_while_the_lane_lags(runner: Runner) -> None:
    runner.give(*upload(60).outgoing())
    assert runner.issuer.run_round() == 4
    runner.save(runner.spread(), "sending", 1)
    assert runner.issuer.run_round() == 4
    runner.ask("UPDATE chunks SET issued_at = now() - interval '61 s' WHERE number = 5")
    assert runner.issuer.run_round() == 0


def test_without_back_pressure_all_is_ordered(runner: Runner) -> None:
    free = Runner(runner.engine, lag_seconds=0.0)
    free.give(*upload(60).outgoing())
    assert free.issuer.run_round() == 20


def test_one_runner_at_a_time_gives_orders(runner: Runner) -> None:
    runner.give(*upload(3).outgoing())
    with PostgresRounds(acting(runner.engine, "courant_job_runner")).round() as turn:
        assert turn
        assert runner.issuer.run_round() == 0
    assert runner.issuer.run_round() == 1


def test_under_a_hold_no_orders_are_given(runner: Runner) -> None:
    runner.give(*upload(3).outgoing())
    runner.ask("INSERT INTO holds (scope, reason) VALUES ('rebuild', '')")
    assert runner.issuer.run_round() == 0
    runner.ask("UPDATE holds SET stands = false")
    assert runner.issuer.run_round() == 1


def test_orders_that_nobody_acknowledged_are_given_again(runner: Runner) -> None:
    runner.give(*upload(3).outgoing())
    runner.world.kafka.refusals = 1
    with pytest.raises(dispatch.Unavailable):
        runner.issuer.run_round()
    assert runner.issuer.run_round() == 1


def test_an_idempotency_key_stands_for_its_first_job(runner: Runner) -> None:
    first = upload(3, idempotency_key=b"key", body_hash=b"body")
    again = upload(3, job_id=first.job_id, idempotency_key=b"key", body_hash=b"body")
    other = upload(3, job_id=uuid4(), idempotency_key=b"key", body_hash=b"another")
    later = upload(3, job_id=uuid4(), idempotency_key=b"key", body_hash=b"body")
    for each in (first, again, other, later):
        runner.give(*each.outgoing())
    stored = {(first.job_id, first.seal.upload_id), (other.job_id, other.seal.upload_id)}
    assert {*runner.ask("SELECT id, upload_id FROM jobs")} == stored
    assert runner.ask("SELECT id, winner FROM aliases") == [(later.job_id, first.job_id)]
    assert runner.ask("SELECT job_id, wish FROM wishes") == [(other.job_id, "cancelled")]
    assert runner.letters() == ["idempotency: the key came with another body"]
    assert runner.issuer.run_round() == 1


def test_a_job_that_lost_its_key_stays_the_others_after_the_key_is_forgotten(
    runner: Runner,
) -> None:
    first = upload(3, idempotency_key=b"key", body_hash=b"body")
    later = upload(3, job_id=uuid4(), idempotency_key=b"key", body_hash=b"body")
    runner.give(*first.outgoing())
    runner.give(*later.outgoing())
    runner.ask("DELETE FROM idempotency; DELETE FROM positions")
    runner.ask("DELETE FROM jobs; DELETE FROM chunks")
    runner.ask("UPDATE holds SET stands = false")
    consumer = FakeConsumer(runner.world.kafka, "again", runner.jobs.topics)
    for _ in range(9):
        consume.step(consumer, runner.producer, runner.jobs, comparing=False)
    assert runner.ask("SELECT id FROM jobs") == [(first.job_id,)]


def test_a_postgres_that_went_back_reads_again_what_it_lacks(runner: Runner) -> None:
    made = upload(6)
    runner.give(*made.outgoing())
    runner.issuer.run_round()
    first = runner.spread()
    for table in ("jobs", "chunks", "positions"):
        runner.ask(f"DELETE FROM {table}")
    runner.step(runner.jobs)  # sees it, raises the hold, stands at the beginning
    assert runner.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [
        ("jobs",),
        ("rebuild",),
    ]
    runner.step(runner.jobs, 5)
    runner.ask("UPDATE holds SET stands = false")
    runner.issuer.run_round()
    assert {each.id for each in runner.spread()} == {each.id for each in first}
