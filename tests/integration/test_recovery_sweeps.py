"""Every sweep on a real PostgreSQL: the rows that it finds, and those that it must leave alone."""

# ruff: noqa: E501  (the table of mistakes is one)

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import Engine

from courant.directory.entries import Directory, Template
from courant.errors import Unavailable
from courant.lifecycle import Move, Report
from courant.records import span_of
from courant.testing import builders
from courant.testing.builders import DELIVERY, NOW, PERSISTED, RECEIPTS
from courant.testing.kafka import FakeProducer
from courant.topics import Channel, Lane, Positions
from recovery import rules, store, sweeps, tasks
from recovery.rows import OverdueRow
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from saver.store import PostgresStore as SaverStore
from support.recovery import Scenario, id_of, make_mistake
from support.roles import acting

GRACE = timedelta(seconds=30)
BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def sweep(
    scenario: Scenario, name: str, positions: Positions | None = None
) -> list[tuple[str, int, str]]:
    """Run one sweep, and return every record that was ever written."""
    tools = Tools(scenario.producer, directory(), positions or {}, GRACE)
    tasks.run(BY_NAME[name], scenario.store, tools)
    return scenario.written()


def directory() -> Directory:
    templates = Directory()
    for version, hours, resend in ((3, 72, True), (4, 2, True), (5, 72, False)):
        templates.put(
            Template(
                id=UUID(int=9),
                version=version,
                service_id=UUID(int=7),
                channel=Channel.EMAIL,
                name="n",
                subject="s",
                body="b",
                created_at=NOW,
                valid_for_hours=hours,
                resend_unknown=resend,
            )
        )
    templates.is_read = True
    return templates


def order(number: int) -> tuple[str, int, str]:
    return (PERSISTED, number, "")


def decision(number: int, move: str) -> tuple[str, int, str]:
    return (DELIVERY, number, move)


def all_folded(scenario: Scenario) -> None:
    """Insert marks of the last minutes, with a heartbeat every five seconds; fold all of it."""
    for at in range(200, 0, -5):
        scenario.mark(RECEIPTS, at, 200 - at)
    scenario.mark(DELIVERY, 1, 7)
    scenario.fold_to(DELIVERY, 7)
    scenario.fold_to(RECEIPTS, 200)


# due


def test_a_row_that_waited_for_its_time_is_ordered_once_it_has_come(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.row(2, issued_at="ago(60)", not_before="ago(-60)")  # not yet
    scenario.row(3, issued_at="ago(60)")  # its order waits
    scenario.row(4, issued_at="ago(1)", not_before="ago(60)")  # it was ordered since
    scenario.row(5, "claimed", issued_at="ago(60)", not_before="ago(1)")
    assert sweep(scenario, "due") == [order(1)]
    assert sweep(scenario, "due") == [order(1)]


def as_row(number: int) -> OverdueRow:
    return OverdueRow(id_of(number), 2, Channel.EMAIL, Lane.NORMAL, UUID(int=9), 3)


def test_a_row_that_is_freed_while_its_decision_is_noted_is_due_at_once(scenario: Scenario) -> None:
    scenario.row(1, "claimed", attempt="2", issued_at="ago(90)")
    freed = Report(id=id_of(1), attempt=2, move=Move.FREED)
    saver = SaverStore(acting(scenario.engine, "courant_saver"), timedelta(seconds=30))
    span = span_of([builders.record(builders.decided(1, Move.FREED, 2))])
    with saver.fold(span) as fold:
        with scenario.store.sweeping() as rows:
            rows.issued([as_row(1)])  # after the saver's transaction began
        fold.settle([[freed]], [], [])
    assert sweep(scenario, "due") == [order(1)]


def test_a_record_that_is_not_acknowledged_leaves_its_row_to_be_found_again(
    scenario: Scenario,
) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.world.kafka.refusals = 1
    with pytest.raises(Unavailable):
        sweep(scenario, "due")
    scenario.producer = FakeProducer(scenario.world.kafka)  # the process died
    assert sweep(scenario, "due") == [order(1)]


def test_a_sweep_runs_on_while_it_finds_its_limit(scenario: Scenario) -> None:
    for number in range(1, 6):
        scenario.row(number, issued_at="ago(60)", not_before="ago(1)")
    tools = Tools(scenario.producer, directory(), {}, GRACE)
    assert tasks.run(replace(BY_NAME["due"], limit=2), scenario.store, tools) == 5
    assert scenario.written() == [order(number) for number in range(1, 6)]


def test_a_row_that_another_transaction_has_locked_is_skipped(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    with scenario.engine.begin() as other:
        other.exec_driver_sql("SELECT FROM notifications FOR UPDATE")
        assert sweep(scenario, "due") == []
    assert sweep(scenario, "due") == [order(1)]


@pytest.mark.parametrize("scope", ["rebuild", "all"])
def test_under_a_hold_no_sweep_runs(scenario: Scenario, scope: str) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.hold(scope=scope)
    with pytest.raises(Unavailable, match="on hold"):
        sweep(scenario, "due")
    scenario.ask("UPDATE holds SET stands = false")
    assert sweep(scenario, "due") == [order(1)]


def test_a_stop_of_one_lane_stops_no_sweep(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.hold(scope="lane:bulk")
    assert sweep(scenario, "due") == [order(1)]


def test_another_server_raises_the_hold_before_it_is_swept(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.ask("UPDATE servers SET id = 'the one before'")
    with pytest.raises(Unavailable, match="on hold"):
        sweep(scenario, "due")
    assert scenario.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [
        ("jobs",),
        ("rebuild",),
    ]


def test_a_dump_that_is_loaded_into_a_server_that_goes_on_raises_the_hold(
    scenario: Scenario,
) -> None:
    assert sweep(scenario, "due") == []
    scenario.row(1, issued_at="ago(60)", not_before="ago(1)")
    scenario.ask("TRUNCATE positions")  # a dump that keeps the tables begins with this
    with pytest.raises(Unavailable, match="on hold"):
        sweep(scenario, "due")


# replay-created


def test_an_order_is_lost_when_its_readers_have_passed_it(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(100)")
    scenario.row(2, issued_at="ago(30)")  # its saver may have died, and is not back yet
    scenario.row(3, issued_at="ago(100)", lane="'bulk'")  # nothing is known of that lane
    scenario.row(4, issued_at="ago(100)", not_before="ago(50)")  # is due, not lost
    scenario.mark(PERSISTED, 1, 5)
    scenario.mark("persisted.email.bulk", 1, 5)
    positions = scenario.fold_to(PERSISTED, 5) | {
        next(iter(scenario.fold_to("persisted.email.bulk", 9))): 4
    }
    assert sweep(scenario, "replay-created", positions) == [order(1)]
    assert sweep(scenario, "replay-created", positions) == [order(1)]


def test_a_row_that_waits_in_a_backlog_is_not_ordered_again(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(100)")
    scenario.row(2, issued_at="ago(300)")
    scenario.mark(PERSISTED, 200, 3, 1)
    scenario.mark(PERSISTED, 1, 5, 9)
    positions = scenario.fold_to(PERSISTED, 5, 8)  # one record of one partition is not read yet
    assert sweep(scenario, "replay-created", positions) == [order(2)]


def test_the_old_marks_of_a_recreated_topic_prove_nothing(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(100)")
    scenario.mark(PERSISTED, 1, 5)
    scenario.ask("UPDATE marks SET topic_id = gen_random_uuid()")
    assert sweep(scenario, "replay-created", scenario.fold_to(PERSISTED, 5)) == []


def test_a_partition_without_a_position_is_read_from_0(scenario: Scenario) -> None:
    scenario.row(1, issued_at="ago(100)")
    scenario.mark(PERSISTED, 1, 5, 0)
    assert sweep(scenario, "replay-created", scenario.fold_to(PERSISTED, 5)) == [order(1)]
    scenario.row(2, issued_at="ago(100)")
    scenario.ask("UPDATE marks SET ends = '{5, 1}'")
    assert sweep(scenario, "replay-created", scenario.fold_to(PERSISTED, 5)) == [order(1)]


# never started


def test_a_claimed_row_that_never_started_is_freed(scenario: Scenario) -> None:
    all_folded(scenario)
    old = {"issued_at": "ago(90)", "attempt": "2"}
    scenario.row(1, "claimed", lease_until="ago(10)", **old)
    scenario.row(2, "claimed", lease_until="ago(-10)", **old)  # still held
    scenario.row(3, "claimed", lease_until="ago(10)", **old)  # in a call
    scenario.row(4, "claimed", lease_until="ago(10)", **old)  # in a call of an earlier attempt
    scenario.call(1, {3: 2, 4: 1})
    freed = [decision(1, "freed/2"), decision(4, "freed/2")]
    assert sweep(scenario, "never-started") == freed
    assert sweep(scenario, "never-started") == freed  # until that is folded


def test_nothing_is_freed_while_a_started_may_be_unread(scenario: Scenario) -> None:
    scenario.row(1, "claimed", lease_until="ago(10)", issued_at="ago(90)", attempt="2")
    scenario.mark(DELIVERY, 20, 5)
    scenario.mark(DELIVERY, 1, 7)
    scenario.fold_to(DELIVERY, 6)
    assert sweep(scenario, "never-started") == []
    scenario.fold_to(DELIVERY, 7)
    assert sweep(scenario, "never-started") == [decision(1, "freed/2")]


# unknown


def claimed_in_calls(scenario: Scenario) -> None:
    old = {"issued_at": "ago(190)", "attempt": "2"}
    scenario.row(1, "claimed", lease_until="ago(60)", **old)
    scenario.row(2, "claimed", lease_until="ago(60)", template_version="5", **old)
    scenario.row(3, "claimed", lease_until="ago(20)", **old)  # its grace is not over
    scenario.row(4, "claimed", lease_until="ago(60)", **old)  # in no call
    scenario.row(5, "sending", lease_until="ago(60)", **old)  # its receipt came
    scenario.call(1, {1: 2, 2: 2, 3: 2, 5: 2})


def test_an_unknown_outcome_is_resolved_after_the_grace(scenario: Scenario) -> None:
    claimed_in_calls(scenario)
    all_folded(scenario)
    resolved = [decision(1, "resent/2"), decision(2, "abandoned/2")]
    assert sweep(scenario, "unknown") == resolved
    assert sweep(scenario, "unknown") == resolved


def test_nothing_is_resolved_while_receipts_are_not_folded(scenario: Scenario) -> None:
    claimed_in_calls(scenario)
    all_folded(scenario)
    scenario.fold_to(RECEIPTS, 200 - 50)  # the receipts of the last 50 s are not folded
    assert sweep(scenario, "unknown") == []
    scenario.fold_to(RECEIPTS, 200 - 25)  # a lease of 60 s ago and a grace of 30 s end before that
    assert len(sweep(scenario, "unknown")) == 2


@pytest.mark.parametrize(
    ("gap", "resolved"),
    [((120, 100), 2), ((80, 60), 2), ((60, 40), 2), ((45, 25), 0), ((20, 1), 0)],
)
def test_a_gap_in_which_no_receipt_could_come_restarts_the_grace(
    scenario: Scenario, gap: tuple[int, int], resolved: int
) -> None:
    claimed_in_calls(scenario)
    all_folded(scenario)
    first, last = gap
    ends = f"UPDATE marks SET ends = ARRAY[{200 - first}] WHERE topic = 'receipts'"
    scenario.ask(
        f"{ends} AND at BETWEEN now() - interval '{first} s' AND now() - interval '{last} s'"
    )
    assert len(sweep(scenario, "unknown")) == resolved


def test_nothing_is_resolved_before_there_are_marks_of_a_whole_grace(scenario: Scenario) -> None:
    claimed_in_calls(scenario)
    all_folded(scenario)
    scenario.ask("DELETE FROM marks WHERE at < now() - interval '25 s'")
    assert sweep(scenario, "unknown") == []


# unanswered, expired


def test_a_row_without_a_receipt_for_three_days_is_given_up(scenario: Scenario) -> None:
    all_folded(scenario)
    day = 86_400
    scenario.row(1, "sending", state_at=f"ago({3 * day + 60})", issued_at=f"ago({4 * day})")
    scenario.row(2, "sending", state_at=f"ago({3 * day - 60})", issued_at=f"ago({4 * day})")
    scenario.row(3, "delivered", state_at=f"ago({4 * day})", issued_at=f"ago({4 * day})")
    assert sweep(scenario, "unanswered") == [decision(1, "unanswered/0")]
    assert sweep(scenario, "unanswered") == [decision(1, "unanswered/0")]


def test_a_row_that_was_not_sent_in_time_expires(scenario: Scenario) -> None:
    all_folded(scenario)
    hour = 3600
    old = {"issued_at": f"ago({80 * hour})", "accepted_at": f"ago({80 * hour})"}
    scenario.row(1, **old)
    scenario.row(2, **old, scheduled_for=f"ago({70 * hour})")  # its time came later
    scenario.row(3, **(old | {"accepted_at": f"ago({71 * hour})"}))
    scenario.row(4, **(old | {"accepted_at": f"ago({3 * hour})"}), template_version="4")
    scenario.row(5, **(old | {"accepted_at": f"ago({1 * hour})"}), template_version="4")
    scenario.row(6, "sent", **old)
    expired = [decision(1, "expired/0"), decision(4, "expired/0")]
    assert sweep(scenario, "expired") == expired
    assert sweep(scenario, "expired") == expired


def test_rows_that_may_stay_do_not_hide_those_that_expire(scenario: Scenario) -> None:
    all_folded(scenario)
    hour, job = 3600, UUID(int=6)
    scenario.ask(
        "INSERT INTO wishes (job_id, wish, wished_at) VALUES (:id, 'paused', now())", id=job
    )
    for number in range(10, 17):  # more than one run looks at
        at = f"ago({90 * hour - number})"
        scenario.row(number, job_id=f"'{job}'", lane="'bulk'", issued_at=at, accepted_at=at)
    scenario.row(1, issued_at=f"ago({80 * hour})", accepted_at=f"ago({80 * hour})")
    tools = Tools(scenario.producer, directory(), {}, GRACE)
    runs = [BY_NAME["expired"].do(scenario.store, tools, 1) for _ in range(5)]
    assert runs == [0, 1, 0, 0, 0]
    assert scenario.written() == [decision(1, "expired/0")]


# mistakes


def gap_of_20_s(scenario: Scenario) -> None:
    test_a_gap_in_which_no_receipt_could_come_restarts_the_grace(scenario, (45, 25), 0)


def held(scenario: Scenario) -> None:
    test_under_a_hold_no_sweep_runs(scenario, "rebuild")


DUE, LOST = (
    test_a_row_that_waited_for_its_time_is_ordered_once_it_has_come,
    test_an_order_is_lost_when_its_readers_have_passed_it,
)
FREED, EXPIRED = (
    test_a_claimed_row_that_never_started_is_freed,
    test_a_row_that_was_not_sent_in_time_expires,
)
RESOLVED = test_an_unknown_outcome_is_resolved_after_the_grace

# The module, the name in it, the right text, the wrong text, and the test that must see it.
Mistake: TypeAlias = tuple[Any, str, str, str, Callable[[Scenario], None]]
# fmt: off
MISTAKES: dict[str, Mistake] = {
    "due before its time": (store, "DUE", "AND n.not_before <= now()", "", DUE),
    "due again and again": (store, "DUE", "n.issued_at < n.not_before", "true", DUE),
    "what is claimed is due": (store, "DUE", "n.state = 'created'", "true", DUE),
    "backlog ordered again": (store, "COMMITTED", "e.ends > coalesce(p.next, 0)", "false", test_a_row_that_waits_in_a_backlog_is_not_ordered_again),
    "positions without a topic's id": (store, "COMMITTED", "p.topic_id = m.topic_id AND ", "", test_the_old_marks_of_a_recreated_topic_prove_nothing),
    "a partition without a place passed": (store, "COMMITTED", "coalesce(p.next, 0)", "p.next", test_a_partition_without_a_position_is_read_from_0),
    "all lanes by one lane's mark": (store, "UNCLAIMED", "AND n.lane = %(lane)s", "", LOST),
    "scheduled ordered as lost": (store, "UNCLAIMED", "AND coalesce(not_before <= issued_at, true)", "", LOST),
    "no wait for a saver": (sweeps, "lost_orders", "until - ORDER_WAIT", "until", LOST),
    "freed": (store, "UNSTARTED", "NOT \n", "\n", FREED),
    "not freed after an earlier call": (store, "UNSTARTED", "AND c.attempt = n.attempt", "", FREED),
    "freed before the lease is over": (store, "UNSTARTED", "n.lease_until < %(before)s", "true", FREED),
    "freed again and again": (store, "UNSTARTED", "AND n.issued_at < %(delivery)s", "", FREED),
    "freed while delivery is not folded": (store, "FOLDED", "e.ends > coalesce(p.next, 0)", "false", test_nothing_is_freed_while_a_started_may_be_unread),
    "resolved while it is in no call": (store, "UNRESOLVED", "AND  \n", "AND true OR \n", RESOLVED),
    "resolved without a grace": (rules, "silent_before", "receipts - grace if", "receipts if", RESOLVED),
    "gaps of no account": (rules, "silent_before", "since and since + grace < receipts", "since", gap_of_20_s),
    "unfolded receipts of no account": (store, "FOLDED", "e.ends > coalesce(p.next, 0)", "false", test_nothing_is_resolved_while_receipts_are_not_folded),
    "the policy of no account": (sweeps, "resolve", "or template.resend_unknown", "or True", RESOLVED),
    "unanswered too early": (store, "UNANSWERED", "AND n.state_at < %(before)s", "", test_a_row_without_a_receipt_for_three_days_is_given_up),
    "scheduled expired": (store, "EXPIRED", ", coalesce(scheduled_for, accepted_at) AS since", ", accepted_at AS since", EXPIRED),
    "template's time of no account": (store, "EXPIRED", "make_interval(hours => s.hours), ", "", EXPIRED),
    "the walk starts again and again": (sweeps, "expired", "= place", "= FIRST_PLACE", test_rows_that_may_stay_do_not_hide_those_that_expire),
    "not noted": (store, "ISSUED", "WHERE id =", "WHERE false AND id =", FREED),
    "noted before it is written": (sweeps, "issue", "publish(tools.producer", "rows.issued(overdue); rows.run('COMMIT'); publish(tools.producer", test_a_record_that_is_not_acknowledged_leaves_its_row_to_be_found_again),
    "one bite": (tasks, "run", "range(BITES_MAX if task.is_sweep else 1)", "range(1)", test_a_sweep_runs_on_while_it_finds_its_limit),
    "swept under a hold": (store, "STOPPED", "WHERE stands AND", "WHERE false AND", held),
    "every stop stops": (store, "STOPPED", "scope IN ('rebuild', 'all')", "true", test_a_stop_of_one_lane_stops_no_sweep),
    "server not recognised": (store, "hold_after_restart", "cursor.rowcount", "False", test_another_server_raises_the_hold_before_it_is_swept),
}
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tests_see_the_mistake(
    mistake: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    *where, test = MISTAKES[mistake]
    make_mistake(monkeypatch, BY_NAME, where)
    with pytest.raises((AssertionError, pytest.fail.Exception, Unavailable)):
        test(scenario)
