"""Marks, holds, days, the directory and upkeep, on a real PostgreSQL."""

import time
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine

from courant import ids
from courant.directory.entries import AnyEntry, Directory, Service, decode, encode
from courant.errors import Unavailable
from courant.records import Outgoing
from courant.testing import builders
from courant.testing.builders import DELIVERY, RECEIPTS
from courant.topics import DIRECTORY, INBOX, JOBS, Positions
from recovery import marks, rules, tasks
from recovery.leader import LeaderLock, connect
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from support.recovery import TODAY, Scenario, id_of, make_day

LEASE, MARGIN = timedelta(seconds=60), timedelta(seconds=20)
GRACE = timedelta(seconds=30)
BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def run(scenario: Scenario, name: str) -> int:
    tools = Tools(scenario.producer, known(), {}, GRACE)
    return tasks.run(BY_NAME[name], scenario.store, tools)


# marks and holds


def test_a_mark_keeps_the_ends_that_were_asked_for_after_its_time(scenario: Scenario) -> None:
    asked: list[datetime] = []

    def ends() -> Positions:
        asked.extend(at for (at,) in scenario.ask("SELECT clock_timestamp()"))
        return {builders.partition(DELIVERY, number): 10 * number for number in (2, 0, 1)}

    scenario.store.take_mark(ends)
    [(at, *mark)] = scenario.ask("SELECT at, topic_id, family, topic, ends FROM marks")
    assert mark == [builders.partition(DELIVERY).topic_id, "delivery", DELIVERY, [0, 10, 20]]
    assert at < asked[0]


@pytest.mark.parametrize("later", ["hold", "mark"])
def test_when_the_clock_went_back_the_hold_is_raised_by_what_it_is_now(
    scenario: Scenario, later: str
) -> None:
    if later == "hold":
        scenario.hold(seconds=-300)
    else:
        scenario.mark(DELIVERY, -300, 1)
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 7})
    assert scenario.ask("SELECT ends FROM marks") == [([7],)]
    assert scenario.ask(
        "SELECT scope FROM holds WHERE stands AND raised_at <= now() ORDER BY 1"
    ) == [
        ("jobs",),
        ("rebuild",),
    ]
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 8})  # it goes on from there
    assert len(scenario.ask("SELECT FROM marks")) == 2


def test_a_mark_on_another_server_raises_the_hold_and_empties_the_others(
    scenario: Scenario,
) -> None:
    scenario.mark(DELIVERY, 10, 1)
    scenario.ask("UPDATE servers SET id = 'the one before'")
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 7})
    assert scenario.ask("SELECT ends FROM marks") == [([7],)]
    assert scenario.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [
        ("jobs",),
        ("rebuild",),
    ]


def test_a_mark_whose_ends_are_not_known_is_not_taken(scenario: Scenario) -> None:
    def ends() -> Positions:
        raise Unavailable("Kafka")

    with pytest.raises(Unavailable, match="Kafka"):
        scenario.store.take_mark(ends)
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 1})


@pytest.mark.parametrize(
    ("raised", "marked", "folded", "stands"),
    [
        (200, 110, 7, False),
        (200, 130, 7, True),  # the lease is over, but not the margin
        (200, 110, 6, True),  # a record from before then is not folded
        (200, 250, 7, True),
    ],
)
def test_the_hold_is_lifted_when_every_claim_that_may_be_lost_is_folded(
    scenario: Scenario, raised: int, marked: int, folded: int, stands: bool
) -> None:
    scenario.hold(seconds=raised)
    scenario.mark(DELIVERY, marked, 7)
    scenario.fold_to(DELIVERY, folded)
    assert marks.lift(scenario.store, LEASE, MARGIN) is stands
    assert scenario.ask("SELECT scope, stands FROM holds") == [("rebuild", stands)]


@pytest.mark.parametrize(
    ("marked", "folded", "stands"), [(90, 7, False), (90, 6, True), (130, 7, True)]
)
def test_the_bulk_lanes_hold_is_lifted_when_every_command_before_it_is_folded(
    scenario: Scenario, marked: int, folded: int, stands: bool
) -> None:
    scenario.hold(seconds=100, scope="jobs")
    scenario.mark(JOBS.name, marked, 7)
    scenario.fold_to(JOBS.name, folded)
    assert marks.lift(scenario.store, LEASE, MARGIN) is False  # the other lanes go on meanwhile
    assert scenario.ask("SELECT scope, stands FROM holds") == [("jobs", stands)]


def test_a_hold_that_an_operator_raised_is_not_lifted(scenario: Scenario) -> None:
    scenario.hold(seconds=1000, scope="all")
    scenario.mark(DELIVERY, 1, 7)
    scenario.fold_to(DELIVERY, 7)
    assert marks.lift(scenario.store, LEASE, MARGIN) is False
    assert scenario.ask("SELECT scope, stands FROM holds") == [("all", True)]


def test_the_age_of_each_topic_that_is_known_is_returned(scenario: Scenario) -> None:
    began = time.monotonic()
    scenario.mark(DELIVERY, 20, 3)
    scenario.mark(DELIVERY, 10, 7)
    scenario.fold_to(DELIVERY, 6)
    ages = scenario.store.ages((DELIVERY, RECEIPTS))
    assert ages.keys() == {DELIVERY}  # nothing is known of receipts
    assert 20 <= ages[DELIVERY] <= 20 + time.monotonic() - began


def thinned(scenario: Scenario) -> None:
    run(scenario, "marks-all")


def test_marks_grow_fewer_with_age_and_stay_evenly_spread(scenario: Scenario) -> None:
    for topic in (DELIVERY, RECEIPTS):
        sql = """INSERT INTO marks SELECT now() - interval '1 s' * s, :id, :topic, :topic, '{1}'
            FROM generate_series(1, 4000) s"""
        scenario.ask(sql, id=builders.partition(topic).topic_id, topic=topic)
    # By the age that the marks had when they were stored: 20 s may pass until they are thinned.
    counts = """SELECT count(*) FILTER (WHERE age < 100),
        count(*) FILTER (WHERE age BETWEEN 120 AND 3579), count(*) FILTER (WHERE age > 3600)
        FROM (SELECT extract(epoch FROM max(at) OVER () - at) AS age FROM marks
            WHERE topic = :topic) x"""
    thinned(scenario)
    thinned(scenario)
    [(young, middle, old)] = scenario.ask(counts, topic=DELIVERY)
    assert young == 100
    assert 344 <= middle <= 348
    assert 6 <= old <= 8
    [(_, middle, old)] = scenario.ask(counts, topic=RECEIPTS)
    assert 690 <= middle <= 694  # a gap must be seen in them
    assert 78 <= old <= 82
    widest = """SELECT max(at - before) FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before
        FROM marks WHERE topic = :topic AND at > now() - interval '1 s' * :age) x"""
    [(gap,)] = scenario.ask(widest, topic=DELIVERY, age=110)
    assert gap == timedelta(seconds=1)  # the youngest are all kept
    [(gap,)] = scenario.ask(widest, topic=RECEIPTS, age=3000)
    assert gap < rules.GAP


def test_marks_older_than_the_log_are_forgotten(scenario: Scenario) -> None:
    scenario.mark(DELIVERY, 16 * 86_400, 1)
    scenario.mark(DELIVERY, 14 * 86_400, 1)
    thinned(scenario)
    assert len(scenario.ask("SELECT FROM marks")) == 1


def test_marks_that_grow_old_are_thinned_at_once(scenario: Scenario) -> None:
    sql = """INSERT INTO marks SELECT now() - interval '1 s' * s, :id, :topic, :topic, '{1}'
        FROM generate_series(1, 180) s"""
    scenario.ask(sql, id=builders.partition(DELIVERY).topic_id, topic=DELIVERY)
    run(scenario, "marks")
    # By the age that the marks had when they were stored: some seconds may pass until now.
    counts = """SELECT count(*) FILTER (WHERE age < 100), count(*) FILTER (WHERE age > 121)
        FROM (SELECT extract(epoch FROM max(at) OVER () - at) AS age FROM marks) x"""
    [(young, old)] = scenario.ask(counts)
    assert young == 100
    assert 5 <= old <= 7


# calls, keys


def test_calls_without_a_claimed_row_are_deleted(scenario: Scenario) -> None:
    scenario.mark(DELIVERY, 1, 1)
    scenario.fold_to(DELIVERY, 1)
    scenario.row(1, "claimed", attempt="2")
    scenario.row(2, "sending", attempt="2")
    scenario.call(1, {1: 2, 2: 2}, at="ago(60)")
    scenario.call(2, {1: 1, 2: 2}, at="ago(60)")
    scenario.call(3, {3: 1}, at="ago(60)")  # of a row that is not there
    scenario.call(4, {2: 2}, at="ago(0)")
    assert run(scenario, "orphan-calls") == 4
    left = scenario.ask("SELECT id, notification FROM calls ORDER BY 1")
    assert left == [(UUID(int=1), id_of(1)), (UUID(int=4), id_of(2))]


def test_keys_are_forgotten_a_day_after_their_time_as_far_as_the_log_is_folded(
    scenario: Scenario,
) -> None:
    for hours in (71, 73):
        at = f"now() - interval '{hours} h'"
        scenario.ask(f"INSERT INTO idempotency VALUES (:id, '', :id, '', {at})", id=id_of(hours))
    for topic in (*INBOX.names(), JOBS.name):
        assert run(scenario, "idempotency") == 0  # a mark of some topic is missing
        scenario.mark(topic, 0, 0)
    assert run(scenario, "idempotency") == 1
    assert scenario.ask("SELECT service_id FROM idempotency") == [(id_of(71),)]


def test_a_key_is_kept_while_its_repetition_may_wait_in_the_log(scenario: Scenario) -> None:
    at = "now() - interval '73 h'"
    scenario.ask(f"INSERT INTO idempotency VALUES (:id, '', :id, '', {at})", id=id_of(1))
    for topic in (*INBOX.names(), JOBS.name):
        scenario.mark(topic, 80 * 3600, 0)
        scenario.mark(topic, 1, 1)  # not folded so far
    assert run(scenario, "idempotency") == 0


def test_an_alias_is_kept_for_as_long_as_the_log_can_bring_it_back(scenario: Scenario) -> None:
    for age in (27, 29):
        scenario.ask(
            f"INSERT INTO aliases VALUES (:id, :id, now() - interval '{age} d')", id=id_of(age)
        )
    assert run(scenario, "aliases") == 1
    assert scenario.ask("SELECT id FROM aliases") == [(id_of(27),)]


def test_under_a_hold_nothing_is_forgotten(scenario: Scenario) -> None:
    scenario.hold()
    for task in TASKS:
        with pytest.raises(Unavailable, match="on hold"):
            run(scenario, task.name)


# days


def test_the_days_ahead_are_made_once(scenario: Scenario) -> None:
    for day in (TODAY + 1, TODAY + 2):
        for table in ("notifications", "events"):
            scenario.ask(f"DROP TABLE IF EXISTS {table}_{day}")
    assert run(scenario, "days-made") == 4
    assert run(scenario, "days-made") == 0
    tomorrow = ids.first_of(TODAY + 1)
    scenario.ask("INSERT INTO events (id, move, attempt) VALUES (:id, 'saved', 0)", id=tomorrow)
    assert scenario.ask("SELECT tableoid::regclass::text FROM events") == [(f"events_{TODAY + 1}",)]


def test_days_past_what_is_kept_are_dropped(scenario: Scenario) -> None:
    for day in (TODAY - 23, TODAY - 22, TODAY - 21):
        scenario.ask(f"DROP TABLE IF EXISTS events_{day}")
        make_day(scenario.engine, "events", day)
    # A process detached one and died before it dropped it.
    scenario.ask(f"ALTER TABLE events DETACH PARTITION events_{TODAY - 23}")
    assert run(scenario, "days-dropped") == 2
    assert run(scenario, "days-dropped") == 0
    there = scenario.ask("SELECT relname FROM pg_class WHERE relname ~ '^events_[0-9]+$'")
    old = sorted(int(name.removeprefix("events_")) for (name,) in there)
    assert old[0] == TODAY - 21


# the directory


def entry(number: int, name: str) -> Service:
    return Service(number=number, id=UUID(int=number // 100), name=name)


def known(*entries: AnyEntry) -> Directory:
    directory = Directory()
    for entry in entries:
        directory.put(entry)
    directory.is_read = True
    return directory


class KeyedProducer:
    """A producer of records whose keys are not ids."""

    def __init__(self) -> None:
        self.queued: list[Outgoing] = []
        self.written: list[Outgoing] = []

    def produce(self, outgoing: Outgoing) -> None:
        self.queued.append(outgoing)

    def flush(self) -> None:
        self.written += self.queued
        self.queued = []


def put_row(scenario: Scenario, each: AnyEntry) -> None:
    sql = "INSERT INTO directory VALUES (:key, :number, :value)"
    scenario.ask(sql, key=each.key, number=each.number, value=encode(each))


def test_the_directory_has_of_each_entry_the_later_version(scenario: Scenario) -> None:
    same, newer_row, only_row = entry(101, "same"), entry(202, "row"), entry(301, "row")
    newer_record, only_record = entry(402, "record"), entry(501, "record")
    for each in (same, newer_row, only_row, entry(401, "old")):
        put_row(scenario, each)
    topic = known(same, entry(201, "old"), newer_record, only_record)
    producer = KeyedProducer()
    assert tasks.run(BY_NAME["directory"], scenario.store, Tools(producer, topic, {}, GRACE)) == 4
    assert [record.topic for record in producer.written] == [DIRECTORY.name] * 2
    written = {record.key.decode(): decode(record.value) for record in producer.written}
    assert written == {each.key: each for each in (newer_row, only_row)}
    rows = {key: decode(bytes(v)) for key, v in scenario.ask("SELECT key, value FROM directory")}
    assert rows == {
        each.key: each for each in (same, newer_row, only_row, newer_record, only_record)
    }
    [(next,)] = scenario.ask("SELECT nextval('directory_number')")
    assert next > 501


def test_a_directory_that_was_not_read_to_its_end_proves_nothing(scenario: Scenario) -> None:
    put_row(scenario, entry(101, "row"))
    topic = known()
    topic.is_read = False
    assert (
        tasks.run(BY_NAME["directory"], scenario.store, Tools(scenario.producer, topic, {}, GRACE))
        == 0
    )
    assert scenario.written() == []


# the leader's lock


def test_one_leads_and_another_when_its_connection_is_gone(
    scenario: Scenario, engine: Engine
) -> None:
    own = connect(engine.url.render_as_string(False))
    one, other = LeaderLock(own), LeaderLock(own)
    store = one.take()
    assert store
    assert other.take() is None
    assert one.take()
    scenario.ask("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'courant-recovery'""")
    with pytest.raises(Unavailable):
        store.take_mark(dict)
    with pytest.raises(Unavailable):
        store.take_mark(dict)  # SQLAlchemy must not reconnect, because a new connection has no lock
    with pytest.raises(Unavailable):
        one.take()
    assert other.take()
    assert one.take() is None
    other.resign()
    assert one.take()
    one.resign()


def test_a_log_that_ends_before_a_position_raises_the_hold_and_gives_no_mark(
    scenario: Scenario,
) -> None:
    scenario.fold_to(DELIVERY, 7)
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 7})
    assert scenario.ask("SELECT FROM holds") == []
    scenario.store.take_mark(lambda: {builders.partition(DELIVERY): 6})
    assert scenario.ask("SELECT stands FROM holds WHERE scope = 'rebuild'") == [(True,)]
    assert scenario.ask("SELECT FROM marks") == []
