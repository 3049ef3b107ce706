"""The leader's rounds, on a real PostgreSQL and a fake Kafka that can be away."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2 import extensions
from sqlalchemy import Engine, event

from courant.directory.entries import Directory
from courant.errors import Refused, Unavailable
from courant.serve import Stop
from courant.testing.builders import PERSISTED
from courant.testing.world import World
from courant.topics import Positions
from recovery import faust_apps, rounds, rules, store, timers
from recovery.leader import LeaderLock, connect
from recovery.rounds import RoundParts, Rounds
from recovery.tasks import TASKS, Task
from support.recovery import Scenario


@dataclass
class FakeOffsets:
    """A world's topics, each read to its end by its group."""

    world: World
    away: bool = False
    closed: bool = False

    def ends(self, topics: Iterable[str]) -> Positions:
        if self.away:
            raise Unavailable("Kafka: away")
        kafka = self.world.kafka
        return {partition: len(kafka.log[partition]) for partition in kafka.partitions(*topics)}

    def committed(self, groups: Mapping[str, str]) -> Positions:
        return self.ends(groups)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def own(scenario: Scenario) -> Engine:
    url = scenario.engine.url.set(username="courant_recovery")
    return connect(url.render_as_string(False))


@pytest.fixture
def parts(scenario: Scenario) -> Iterator[RoundParts]:
    lead = LeaderLock(own(scenario))
    minute = timedelta(minutes=1)
    directory = Directory()
    directory.is_read = True
    yield RoundParts(
        leader_lock=lead,
        offsets=FakeOffsets(scenario.world),
        producer=scenario.producer,
        directory=directory,
        lease=minute,
        margin=minute,
        grace=timedelta(seconds=30),
        kept=timedelta(days=7),
        stopping=lambda: False,
    )
    lead.resign()


def test_a_round_marks_every_topic_and_runs_the_tasks_that_are_due(
    scenario: Scenario, parts: RoundParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: 7.0))  # time stands still
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    leader = Rounds(parts)
    leader.make_round()
    assert scenario.written() == [(PERSISTED, 1, "")]
    assert {topic for (topic,) in scenario.ask("SELECT topic FROM marks")} == {*rules.MARKED}
    scenario.row(2, issued_at="ago(60)", not_before="ago(1)")
    leader.make_round()  # at once again: nothing is due yet
    assert scenario.written() == [(PERSISTED, 1, "")]


def test_under_a_hold_marks_are_taken_and_nothing_is_swept(
    scenario: Scenario, parts: RoundParts
) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.hold(seconds=30)
    leader = Rounds(parts)
    leader.make_round()
    assert scenario.written() == []
    assert scenario.ask("SELECT FROM marks")
    scenario.ask("UPDATE holds SET raised_at = now() - interval '3 min'")
    leader.make_round()
    assert scenario.ask("SELECT stands FROM holds") == [(False,)]
    assert scenario.written() == [(PERSISTED, 1, "")]


def test_a_process_that_does_not_lead_does_nothing(scenario: Scenario, parts: RoundParts) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    other = LeaderLock(own(scenario))
    assert other.take()
    Rounds(parts).make_round()
    assert scenario.written() == []
    assert scenario.ask("SELECT FROM marks") == []
    other.resign()


@pytest.mark.parametrize("error", [Refused("42P01"), Unavailable("55P03")])
def test_a_task_that_fails_stops_no_other_task(
    scenario: Scenario, parts: RoundParts, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(rounds, "TASKS", (Task("broken", timedelta(), 1, fail), *TASKS))
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    Rounds(parts).make_round()
    assert scenario.written() == [(PERSISTED, 1, "")]


def test_without_kafka_no_mark_is_taken_and_the_lead_is_kept(
    scenario: Scenario, parts: RoundParts
) -> None:
    assert isinstance(parts.offsets, FakeOffsets)
    parts.offsets.away = True
    leader = Rounds(parts)
    with pytest.raises(Unavailable):
        leader.make_round()
    assert scenario.ask("SELECT FROM marks") == []
    assert LeaderLock(own(scenario)).take() is None
    parts.offsets.away = False
    leader.make_round()
    assert scenario.ask("SELECT FROM marks")


def test_resigning_releases_the_lock_and_closes_the_clients(
    scenario: Scenario, parts: RoundParts
) -> None:
    leader = Rounds(parts)
    leader.make_round()
    leader.resign()
    assert isinstance(parts.offsets, FakeOffsets)
    assert parts.offsets.closed
    other = LeaderLock(own(scenario))
    assert other.take()
    other.resign()


def test_records_that_could_not_be_written_are_not_queued_again_in_each_round(
    scenario: Scenario, parts: RoundParts
) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.world.kafka.refusals = 3
    leader = Rounds(parts)
    leader.make_round()
    for _ in range(2):
        leader.begun.clear()  # all is due again
        with pytest.raises(Unavailable):
            leader.make_round()
    leader.begun.clear()
    leader.make_round()
    assert (
        scenario.written() == [(PERSISTED, 1, "")] * 2
    )  # the record that was left, then the one that was due


FRAMES_MAX = 8
"""Seven today: lead, make_round, attempt, run, the sweep, and two of the store."""


@dataclass
class TimerApp:
    """A Faust app that leads and does not run its timer by itself."""

    timers: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)

    def timer(self, interval: float) -> Callable[[Any], None]:
        assert interval == timers.ROUND_SECONDS
        return self.timers.append

    def is_leader(self) -> bool:
        return True


def our_frames() -> list[str]:
    """Return the product's functions on this thread's stack, the outermost first."""
    frames = [(Path(frame.filename), frame.name) for frame in traceback.extract_stack()]
    return [f"{path.stem}.{name}" for path, name in frames if "recovery" in path.parent.name]


def test_a_sweeps_sql_is_few_calls_below_the_leaders_timer(
    scenario: Scenario, parts: RoundParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[list[str]] = []  # of the timer when it starts a round, of the sweep at its SQL

    class RecordingExecutor(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            stacks.append(our_frames())
            return super().submit(*args, **kwargs)

    class RecordingCursor(extensions.cursor):
        def execute(self, sql: Any, values: Any = None) -> None:
            if sql == store.DUE:
                stacks.append(our_frames())
            super().execute(sql, values)

    def record(connection: Any, _: object) -> None:
        connection.cursor_factory = RecordingCursor

    event.listen(parts.leader_lock._engine, "connect", record)
    app = TimerApp()
    monkeypatch.setattr(faust_apps, "app", lambda *_: app)
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    with RecordingExecutor(1) as worker:
        timers.app("", 1, Rounds(parts), worker, Stop())
        [lead] = app.timers
        asyncio.run(lead())
    assert scenario.written() == [(PERSISTED, 1, "")]
    timer, sweep = stacks
    assert timer[0] == "timers.lead"
    assert len(timer + sweep) <= FRAMES_MAX, timer + sweep
