"""Marks, holds, days, the directory's rows, and what is forgotten, on a real PostgreSQL."""

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
from courant.topics import DIRECTORY, JOBS, Positions
from recovery import marks, rules, tasks
from recovery.leader import Lead, connect
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from support.recovery import TODAY, Hand, id_of, make_day

LEASE, MARGIN = timedelta(seconds=6), timedelta(seconds=2)
GRACE, KEPT = timedelta(seconds=30), timedelta(days=7)
BY_NAME = {each.name: each for each in TASKS}


@pytest.fixture
def hand(engine: Engine) -> Hand:
    return Hand(engine)


def run(hand: Hand, name: str) -> int:
    tools = Tools(hand.producer, known(), {}, GRACE, KEPT)
    return tasks.run(BY_NAME[name], hand.store, tools)


# marks and holds


def test_a_mark_keeps_the_ends_that_were_asked_for_after_its_time(hand: Hand) -> None:
    asked: list[datetime] = []

    def ends() -> Positions:
        asked.extend(at for (at,) in hand.ask("SELECT clock_timestamp()"))
        return {builders.partition(DELIVERY, number): 10 * number for number in (2, 0, 1)}

    hand.store.take_mark(ends)
    [(at, *mark)] = hand.ask("SELECT at, topic_id, family, topic, ends FROM marks")
    assert mark == [builders.partition(DELIVERY).topic_id, "delivery", DELIVERY, [0, 10, 20]]
    assert at < asked[0]


@pytest.mark.parametrize("later", ["hold", "mark"])
def test_when_the_clock_went_back_the_hold_is_raised_by_what_it_is_now(
    hand: Hand, later: str
) -> None:
    if later == "hold":
        hand.hold(seconds=-5)
    else:
        hand.mark(DELIVERY, -5, 1)
    hand.store.take_mark(lambda: {builders.partition(DELIVERY): 7})
    assert hand.ask("SELECT ends FROM marks") == [([7],)]
    assert hand.ask("SELECT scope FROM holds WHERE stands AND raised_at <= now() ORDER BY 1") == [
        ("jobs",),
        ("rebuild",),
    ]
    hand.store.take_mark(lambda: {builders.partition(DELIVERY): 8})  # it goes on from there
    assert len(hand.ask("SELECT FROM marks")) == 2


def test_a_mark_on_another_server_raises_the_hold_and_empties_the_others(hand: Hand) -> None:
    hand.mark(DELIVERY, 10, 1)
    hand.ask("UPDATE servers SET id = 'the one before'")
    hand.store.take_mark(lambda: {builders.partition(DELIVERY): 7})
    assert hand.ask("SELECT ends FROM marks") == [([7],)]
    assert hand.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [("jobs",), ("rebuild",)]


def test_a_mark_whose_ends_are_not_known_is_not_taken(hand: Hand) -> None:
    def ends() -> Positions:
        raise Unavailable("Kafka")

    with pytest.raises(Unavailable, match="Kafka"):
        hand.store.take_mark(ends)
    hand.store.take_mark(lambda: {builders.partition(DELIVERY): 1})


@pytest.mark.parametrize(
    ("raised", "marked", "folded", "stands"),
    [
        (20, 11, 7, False),
        (20, 13, 7, True),  # the lease is over, the margin is not
        (20, 11, 6, True),  # what was written by then is not folded
        (20, 25, 7, True),
    ],
)
def test_the_hold_is_lifted_when_every_claim_that_may_be_lost_is_folded(
    hand: Hand, raised: int, marked: int, folded: int, stands: bool
) -> None:
    hand.hold(seconds=raised)
    hand.mark(DELIVERY, marked, 7)
    hand.place(DELIVERY, folded)
    assert marks.lift(hand.store, LEASE, MARGIN) is stands
    assert hand.ask("SELECT scope, stands FROM holds") == [("rebuild", stands)]


@pytest.mark.parametrize(
    ("marked", "folded", "stands"), [(9, 7, False), (9, 6, True), (11, 7, True)]
)
def test_the_bulk_lanes_hold_is_lifted_when_every_wish_before_it_is_folded(
    hand: Hand, marked: int, folded: int, stands: bool
) -> None:
    hand.hold(seconds=10, scope="jobs")
    hand.mark(JOBS.name, marked, 7)
    hand.place(JOBS.name, folded)
    assert marks.lift(hand.store, LEASE, MARGIN) is False  # the other lanes go on meanwhile
    assert hand.ask("SELECT scope, stands FROM holds") == [("jobs", stands)]


def test_what_an_operator_stopped_is_not_lifted(hand: Hand) -> None:
    hand.hold(seconds=100, scope="all")
    hand.mark(DELIVERY, 1, 7)
    hand.place(DELIVERY, 7)
    assert marks.lift(hand.store, LEASE, MARGIN) is False
    assert hand.ask("SELECT scope, stands FROM holds") == [("all", True)]


def test_it_is_told_how_far_behind_each_group_is(hand: Hand) -> None:
    hand.mark(DELIVERY, 20, 3)
    hand.mark(DELIVERY, 10, 7)
    hand.place(DELIVERY, 6)
    found = hand.store.ages((DELIVERY, RECEIPTS))
    assert found.keys() == {DELIVERY}  # of receipts nothing is known
    assert 20 <= found[DELIVERY] < 25


def thinned(hand: Hand) -> None:
    run(hand, "marks")


def test_marks_grow_fewer_with_age_and_stay_evenly_spread(hand: Hand) -> None:
    for topic in (DELIVERY, RECEIPTS):
        sql = """INSERT INTO marks SELECT now() - interval '1 s' * s, :id, :topic, :topic, '{1}'
            FROM generate_series(1, 4000) s"""
        hand.ask(sql, id=builders.partition(topic).topic_id, topic=topic)
    counts = """SELECT count(*) FILTER (WHERE age BETWEEN 120 AND 3599),
        count(*) FILTER (WHERE age BETWEEN 3600 AND 3990)
        FROM (SELECT extract(epoch FROM now() - at) AS age FROM marks WHERE topic = :topic) x"""
    thinned(hand)
    thinned(hand)
    [(middle, old)] = hand.ask(counts, topic=DELIVERY)
    assert 346 <= middle <= 350
    assert 5 <= old <= 8
    [(middle, old)] = hand.ask(counts, topic=RECEIPTS)
    assert 694 <= middle <= 698  # a gap must be seen in them
    assert 77 <= old <= 79
    widest = """SELECT max(at - before) FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before
        FROM marks WHERE topic = :topic AND at > now() - interval '1 s' * :age) x"""
    [(gap,)] = hand.ask(widest, topic=DELIVERY, age=110)
    assert gap == timedelta(seconds=1)  # the youngest are all kept
    [(gap,)] = hand.ask(widest, topic=RECEIPTS, age=3000)
    assert gap < rules.GAP


def test_marks_older_than_the_log_are_forgotten(hand: Hand) -> None:
    hand.mark(DELIVERY, 16 * 86_400, 1)
    hand.mark(DELIVERY, 14 * 86_400, 1)
    thinned(hand)
    assert len(hand.ask("SELECT FROM marks")) == 1


# calls, keys


def test_calls_of_which_no_row_is_claimed_any_more_are_closed(hand: Hand) -> None:
    hand.mark(DELIVERY, 1, 1)
    hand.place(DELIVERY, 1)
    hand.row(1, "claimed", attempt="2")
    hand.row(2, "sending", attempt="2")
    hand.call(1, {1: 2, 2: 2}, at="ago(60)")
    hand.call(2, {1: 1, 2: 2}, at="ago(60)")
    hand.call(3, {3: 1}, at="ago(60)")  # of a row that is not there
    hand.call(4, {2: 2}, at="ago(0)")
    assert run(hand, "orphan-calls") == 2
    assert hand.ask("SELECT id FROM calls ORDER BY 1") == [(UUID(int=1),), (UUID(int=4),)]


def test_keys_are_forgotten_after_two_days(hand: Hand) -> None:
    for hours in (47, 49):
        at = f"now() - interval '{hours} h'"
        hand.ask(f"INSERT INTO idempotency VALUES (:id, '', :id, '', {at})", id=id_of(hours))
    assert run(hand, "idempotency") == 1
    assert hand.ask("SELECT service_id FROM idempotency") == [(id_of(47),)]


def test_an_alias_is_kept_for_as_long_as_the_log_can_bring_it_back(hand: Hand) -> None:
    for age in (27, 29):
        hand.ask(
            f"INSERT INTO aliases VALUES (:id, :id, now() - interval '{age} d')", id=id_of(age)
        )
    assert run(hand, "aliases") == 1
    assert hand.ask("SELECT id FROM aliases") == [(id_of(27),)]


def test_under_a_hold_nothing_is_forgotten(hand: Hand) -> None:
    hand.hold()
    for task in TASKS:
        with pytest.raises(Unavailable, match="on hold"):
            run(hand, task.name)


# days


def test_the_days_ahead_are_made_once(hand: Hand) -> None:
    for day in (TODAY + 1, TODAY + 2):
        for table in ("notifications", "events"):
            hand.ask(f"DROP TABLE IF EXISTS {table}_{day}")
    assert run(hand, "days-made") == 4
    assert run(hand, "days-made") == 0
    tomorrow = ids.first_of(TODAY + 1)
    hand.ask("INSERT INTO events (id, move, attempt) VALUES (:id, 'saved', 0)", id=tomorrow)
    assert hand.ask("SELECT tableoid::regclass::text FROM events") == [(f"events_{TODAY + 1}",)]


def test_days_past_what_is_kept_are_dropped(hand: Hand) -> None:
    for day in (TODAY - 23, TODAY - 22, TODAY - 21):
        hand.ask(f"DROP TABLE IF EXISTS events_{day}")
        make_day(hand.engine, "events", day)
    # Somebody detached one, and died before it was dropped.
    hand.ask(f"ALTER TABLE events DETACH PARTITION events_{TODAY - 23}")
    assert run(hand, "days-dropped") == 2
    assert run(hand, "days-dropped") == 0
    there = hand.ask("SELECT relname FROM pg_class WHERE relname ~ '^events_[0-9]+$'")
    old = sorted(int(name.removeprefix("events_")) for (name,) in there)
    assert old[0] == TODAY - 21


# the directory


def entry(number: int, name: str) -> Service:
    return Service(number=number, id=UUID(int=number // 100), name=name)


def known(*entries: AnyEntry) -> Directory:
    found = Directory()
    for each in entries:
        found.put(each)
    found.is_read = True
    return found


class Pen:
    """A producer to whom keys are no ids."""

    def __init__(self) -> None:
        self.queued: list[Outgoing] = []
        self.written: list[Outgoing] = []

    def produce(self, outgoing: Outgoing) -> None:
        self.queued.append(outgoing)

    def flush(self) -> None:
        self.written += self.queued
        self.queued = []


def put_row(hand: Hand, each: AnyEntry) -> None:
    sql = "INSERT INTO directory VALUES (:key, :number, :value)"
    hand.ask(sql, key=each.key, number=each.number, value=encode(each))


def test_the_directory_has_of_each_entry_the_later_version(hand: Hand) -> None:
    same, newer_row, only_row = entry(101, "same"), entry(202, "row"), entry(301, "row")
    newer_record, only_record = entry(402, "record"), entry(501, "record")
    for each in (same, newer_row, only_row, entry(401, "old")):
        put_row(hand, each)
    topic = known(same, entry(201, "old"), newer_record, only_record)
    pen = Pen()
    assert tasks.run(BY_NAME["directory"], hand.store, Tools(pen, topic, {}, GRACE, KEPT)) == 4
    assert [each.topic for each in pen.written] == [DIRECTORY.name] * 2
    written = {each.key.decode(): decode(each.value) for each in pen.written}
    assert written == {each.key: each for each in (newer_row, only_row)}
    rows = {key: decode(bytes(v)) for key, v in hand.ask("SELECT key, value FROM directory")}
    assert rows == {
        each.key: each for each in (same, newer_row, only_row, newer_record, only_record)
    }
    [(next,)] = hand.ask("SELECT nextval('directory_number')")
    assert next > 501


def test_a_directory_that_was_not_read_to_its_end_proves_nothing(hand: Hand) -> None:
    put_row(hand, entry(101, "row"))
    topic = known()
    topic.is_read = False
    assert (
        tasks.run(BY_NAME["directory"], hand.store, Tools(hand.producer, topic, {}, GRACE, KEPT))
        == 0
    )
    assert hand.written() == []


# the lead


def test_one_leads_and_another_when_its_connection_is_gone(hand: Hand, engine: Engine) -> None:
    own = connect(engine.url.render_as_string(False))
    one, other = Lead(own), Lead(own)
    store = one.take()
    assert store
    assert other.take() is None
    assert one.take()
    hand.ask("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'courant-recovery'""")
    with pytest.raises(Unavailable):
        store.take_mark(dict)
    with pytest.raises(Unavailable):
        store.take_mark(dict)  # not by a new connection, which has no lock
    with pytest.raises(Unavailable):
        one.take()
    assert other.take()
    assert one.take() is None
    other.resign()
    assert one.take()
    one.resign()
