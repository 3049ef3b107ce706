"""The leader's rounds, on a real PostgreSQL and a fake Kafka that can be away."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from courant.testing.builders import PERSISTED, RECEIPTS
from courant.testing.world import World
from courant.topics import CHUNKS, Positions
from recovery import rounds, rules, store
from recovery.faust import timers
from recovery.leader import LeaderLock, MarksLock, connect
from recovery.marker import Marker
from recovery.rounds import UNLED_SECONDS, RoundParts, Rounds
from recovery.tasks import TASKS, Task
from support.recovery import Scenario
from support.waiting import wait


@dataclass
class FakeOffsets:
    """A world's topics, each read to its end by its group."""

    world: World
    away: bool = False
    closed: bool = False
    silent: set[str] = field(default_factory=set)  # topics that do not answer

    def ends(self, topics: Iterable[str]) -> Positions:
        if self.away:
            raise Unavailable("Kafka: away")
        kafka = self.world.kafka
        asked = [topic for topic in topics if topic not in self.silent]
        return {partition: len(kafka.log[partition]) for partition in kafka.partitions(*asked)}

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
    directory = Directory()
    directory.is_read = True
    yield RoundParts(
        leader_lock=lead,
        offsets=FakeOffsets(scenario.world),
        producer=scenario.producer,
        directory=directory,
        grace=timedelta(seconds=30),
        stopping=lambda: False,
    )
    lead.resign()


@pytest.fixture
def marker(scenario: Scenario, parts: RoundParts) -> Iterator[Marker]:
    lock, minute = MarksLock(own(scenario)), timedelta(minutes=1)
    leads = lambda: parts.leader_lock.is_held  # noqa: E731  (as the process has it)
    yield Marker(lock, leads, parts.offsets, lease=minute, margin=minute)
    lock.resign()


def marked(scenario: Scenario) -> set[str]:
    return {topic for (topic,) in scenario.ask("SELECT topic FROM marks")}


def test_a_round_runs_the_tasks_that_are_due(
    scenario: Scenario, parts: RoundParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: 7.0))  # time stands still
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    leader = Rounds(parts)
    leader.make_round()
    assert scenario.written() == [(PERSISTED, 1, "")]
    scenario.row(2, issued_at="ago(60)", not_before="ago(1)")
    leader.make_round()  # at once again: nothing is due yet
    assert scenario.written() == [(PERSISTED, 1, "")]


def test_the_leader_marks_every_topic(
    scenario: Scenario, parts: RoundParts, marker: Marker
) -> None:
    marker.mark()
    assert marked(scenario) == set()  # nobody leads yet
    Rounds(parts).make_round()
    marker.mark()
    assert marked(scenario) == {*rules.MARKED}


def test_a_mark_does_not_wait_for_a_sweep(
    scenario: Scenario, parts: RoundParts, marker: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_long(leaders: store.PostgresStore, *_: object) -> int:
        with leaders.sweeping():
            marker.mark()  # in production the marks have a thread
        return 0

    monkeypatch.setattr(rounds, "TASKS", (Task("long", timedelta(), 1, takes_long),))
    Rounds(parts).make_round()
    assert marked(scenario) == {*rules.MARKED}


def test_a_topic_that_does_not_answer_stops_no_other(
    scenario: Scenario, parts: RoundParts, marker: Marker
) -> None:
    assert isinstance(parts.offsets, FakeOffsets)
    parts.offsets.silent = {CHUNKS.name, RECEIPTS}
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    Rounds(parts).make_round()
    marker.mark()
    assert marked(scenario) == {*rules.MARKED} - {CHUNKS.name, RECEIPTS}
    assert scenario.written() == [(PERSISTED, 1, "")]


def test_two_processes_do_not_mark_at_once(
    scenario: Scenario, parts: RoundParts, marker: Marker
) -> None:
    former = replace(marker, lock=MarksLock(own(scenario)), leads=lambda: True)
    former.mark()
    scenario.ask("DELETE FROM marks")
    Rounds(parts).make_round()
    marker.mark()
    assert marked(scenario) == set()
    replace(former, leads=lambda: False).mark()  # it has noticed that another leads
    marker.mark()
    assert marked(scenario) == {*rules.MARKED}


def test_under_a_hold_marks_are_taken_and_nothing_is_swept(
    scenario: Scenario, parts: RoundParts, marker: Marker
) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.hold(seconds=30)
    leader = Rounds(parts)
    leader.make_round()
    marker.mark()
    assert scenario.written() == []
    assert marked(scenario) == {*rules.MARKED}
    scenario.ask("UPDATE holds SET raised_at = now() - interval '3 min'")
    marker.mark()
    assert scenario.ask("SELECT stands FROM holds") == [(False,)]
    leader.make_round()
    assert scenario.written() == [(PERSISTED, 1, "")]


@dataclass
class Clock:
    """A monotonic clock that is set by hand."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        return self.seconds


def test_the_lock_alone_suffices_to_lead_when_nobody_is_elected(
    scenario: Scenario, parts: RoundParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    leader = Rounds(parts, tried_at=0.0)
    leader.take_turn(is_elected=False)
    assert not parts.leader_lock.is_held  # Faust may still elect somebody
    clock.seconds = UNLED_SECONDS
    leader.take_turn(is_elected=False)
    assert parts.leader_lock.is_held
    other = Rounds(replace(parts, leader_lock=LeaderLock(own(scenario))))
    other.take_turn(is_elected=True)
    assert not other.parts.leader_lock.is_held  # whoever has the lock keeps it
    leader.resign()
    other.take_turn(is_elected=True)
    assert other.parts.leader_lock.is_held
    other.resign()


def test_a_leader_that_cannot_work_for_a_while_makes_room(
    parts: RoundParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(parts.offsets, FakeOffsets)
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    leader = Rounds(parts)
    leader.take_turn(is_elected=True)
    parts.offsets.away = True
    clock.seconds = UNLED_SECONDS - 1
    with pytest.raises(Unavailable):
        leader.take_turn(is_elected=True)
    assert parts.leader_lock.is_held
    clock.seconds = UNLED_SECONDS + 1
    with pytest.raises(Unavailable):
        leader.take_turn(is_elected=True)
    assert not parts.leader_lock.is_held


def test_an_election_is_void_when_faust_says_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(timers, "time", clock)
    election = timers.Election()
    assert not election()
    election.say(True)
    assert election()
    clock.seconds = timers.STALE_SECONDS
    assert not election()
    election.say(True)
    election.say(False)
    assert not election()


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
    scenario: Scenario, parts: RoundParts, marker: Marker
) -> None:
    assert isinstance(parts.offsets, FakeOffsets)
    parts.offsets.away = True
    leader = Rounds(parts)
    with pytest.raises(Unavailable):
        leader.make_round()
    with pytest.raises(Unavailable):
        marker.mark()
    assert scenario.ask("SELECT FROM marks") == []
    assert LeaderLock(own(scenario)).take() is None
    parts.offsets.away = False
    marker.mark()
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
    wait(other.take, "the server ends the former session")
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
"""Eight today: run, take_turn, make_round, attempt, run, the sweep, and two of the store."""


def our_frames() -> list[str]:
    """Return the product's functions on this thread's stack, the outermost first."""
    frames = [(Path(frame.filename), frame.name) for frame in traceback.extract_stack()]
    return [f"{path.stem}.{name}" for path, name in frames if "recovery" in path.parent.name]


def test_a_sweeps_sql_is_few_calls_below_the_leaders_loop(
    scenario: Scenario, parts: RoundParts
) -> None:
    stacks: list[list[str]] = []
    stop = Stop()

    class RecordingCursor(extensions.cursor):
        def execute(self, sql: Any, values: Any = None) -> None:
            if sql == store.DUE:
                stacks.append(our_frames())
                stop.set()
            super().execute(sql, values)

    def record(connection: Any, _: object) -> None:
        connection.cursor_factory = RecordingCursor

    event.listen(parts.leader_lock._engine, "connect", record)
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    Rounds(parts).run(lambda: True, stop)
    assert scenario.written() == [(PERSISTED, 1, "")]
    assert not parts.leader_lock.is_held
    [sweep] = stacks
    assert sweep[0] == "rounds.run"
    assert len(sweep) <= FRAMES_MAX, sweep
