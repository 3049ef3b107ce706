"""The deliverer's handler: what it sends, reports and releases, whatever the provider does."""

import threading
import time
from collections import Counter

import pytest

from courant.contracts import Outcomes, Persisted, Receipt, ReceiptKind, Started
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.testing.builders import id_of
from courant.testing.world import Crash, Fault
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    Rejected,
    RetryAlone,
    Throttled,
    Unknown,
)
from support.deliverer import (
    SECOND,
    SWITCHED_OFF,
    TEST_KEY,
    UNSENDABLE,
    DelivererLane,
    delivery_records,
)
from support.waiting import WAIT_SECONDS


@pytest.fixture
def lane() -> DelivererLane:
    return DelivererLane()


def test_ordered_rows_are_sent_once_and_their_outcomes_reported(lane: DelivererLane) -> None:
    lane.order(*range(120))
    lane.step()
    assert sorted(number for call in lane.provider.calls for number in call) == [*range(120)]
    assert sorted(map(len, lane.provider.calls)) == [20, 50, 50]
    assert lane.outcomes() == {number: ["accepted"] for number in range(120)}
    assert sum(stat.count for stat in lane.producer.stats) == 120


def test_a_second_order_sends_nothing(lane: DelivererLane) -> None:
    lane.order(1, 1)
    lane.step()
    lane.order(1)
    lane.step()
    assert lane.provider.calls == [[1]]


def test_under_a_hold_nothing_is_claimed_and_the_orders_stay_uncommitted(
    lane: DelivererLane,
) -> None:
    lane.order(1)
    lane.world.store.tables.held = True
    with pytest.raises(Unavailable):
        lane.step()
    lane.world.store.tables.held = False
    lane.step()
    assert lane.provider.calls == [[1]]


def test_nothing_is_claimed_while_messages_cannot_be_rendered(lane: DelivererLane) -> None:
    lane.order(1)
    lane.ready = "the directory is not read yet"
    with pytest.raises(Unavailable, match="directory"):
        lane.step()
    assert not lane.store.claimed


def test_an_unsendable_row_is_reported_and_its_order_dead_lettered(lane: DelivererLane) -> None:
    lane.order(1, UNSENDABLE)
    lane.step()
    assert lane.provider.calls == [[1]]
    assert lane.outcomes() == {1: ["accepted"], UNSENDABLE: ["unsendable"]}
    assert [Persisted.decode(value).id for value in lane.records("persisted.dead")] == [
        id_of(UNSENDABLE)
    ]


def test_an_inactive_service_leaves_no_dead_letters(lane: DelivererLane) -> None:
    lane.order(SWITCHED_OFF)
    lane.step()
    assert lane.outcomes() == {SWITCHED_OFF: ["unsendable"]}
    assert not lane.records("persisted.dead")


def test_throttled_entries_go_into_the_next_call_as_the_same_attempt(lane: DelivererLane) -> None:
    lane.order(1, 2)
    lane.provider.script[2] = [Throttled("fast"), Accepted("m")]
    lane.step()
    assert lane.provider.calls == [[1, 2], [2]]
    assert lane.outcomes() == {1: ["accepted"], 2: ["accepted"]}
    records = [each for each in delivery_records(lane.world) if isinstance(each, Started)]
    assert len({started.call for started in records}) == 2
    assert {entry.attempt for started in records for entry in started.attempts} == {1}


def test_an_entry_throttled_until_the_lease_ends_is_deferred_without_blame() -> None:
    lane = DelivererLane(lease=1.2 * SECOND)
    lane.order(1)
    lane.provider.script[1] = [Throttled("fast")]
    with pytest.raises(Unavailable):
        lane.step()
    assert len(lane.provider.calls) > 1
    assert lane.outcomes() == {1: ["deferred"]}
    reports = [each for each in delivery_records(lane.world) if isinstance(each, Outcomes)]
    [answer] = [answer for report in reports for answer in report.answers]
    assert not answer.blames


def test_the_entries_of_a_call_rejected_for_one_of_them_are_retried_alone(
    lane: DelivererLane,
) -> None:
    lane.order(1, 2, 3)
    for number in (1, 3):
        lane.provider.script[number] = [RetryAlone("bad"), Accepted("m")]
    lane.provider.script[2] = [RetryAlone("bad"), Rejected("bad")]
    lane.step()
    assert sorted(map(sorted, lane.provider.calls)) == [[1], [1, 2, 3], [2], [3]]
    assert lane.outcomes() == {1: ["accepted"], 2: ["rejected"], 3: ["accepted"]}


def test_account_trouble_defers_all_rows_and_one_probe_precedes_the_rest() -> None:
    lane = DelivererLane(threads=1)
    lane.warm_up()
    lane.order(*range(120))
    lane.provider.script = {number: [AccountTrouble("suspended")] for number in range(120)}
    with pytest.raises(Unavailable, match="released"):
        lane.step()
    assert len(lane.provider.calls) == 1
    assert lane.outcomes() == {number: ["deferred"] for number in range(120)}

    lane.order(*range(200, 210))
    with pytest.raises(Unavailable, match="suspended"):
        lane.step()
    lane.now += 60
    lane.provider.script = {number: [AccountTrouble("suspended")] for number in range(200, 210)}
    with pytest.raises(Unavailable, match="suspended"):
        lane.step()
    assert [len(call) for call in lane.provider.calls] == [50, 1]

    lane.now += 60
    lane.provider.script = {}
    lane.step()
    assert [len(call) for call in lane.provider.calls] == [50, 1, 1, 8]


def test_five_calls_with_an_unknown_outcome_open_the_breaker() -> None:
    lane = DelivererLane(threads=1)
    lane.warm_up()
    lane.order(*range(500))
    lane.provider.script = {number: [Unknown("late")] for number in range(500)}
    with pytest.raises(Unavailable, match="released"):
        lane.step()
    assert len(lane.provider.calls) == 5
    outcomes = [outcome for row in lane.outcomes().values() for outcome in row]
    assert (outcomes.count("unknown"), outcomes.count("deferred")) == (250, 250)


def test_a_stop_lets_calls_finish_and_leaves_nothing_claimed() -> None:
    lane = DelivererLane(threads=1)
    lane.warm_up()
    lane.order(*range(500))

    def stop(_: Call) -> None:
        lane.stop = True

    lane.provider.meanwhile = stop
    with pytest.raises(Unavailable, match="released"):
        lane.step()
    assert len(lane.provider.calls) == 1
    outcomes = [outcome for row in lane.outcomes().values() for outcome in row]
    assert (outcomes.count("accepted"), outcomes.count("deferred")) == (50, 450)
    assert sorted(lane.store.claimed) == sorted(lane.outcomes())


def test_orders_not_claimed_at_a_stop_stay_uncommitted(lane: DelivererLane) -> None:
    lane.order(1)
    lane.stop = True
    with pytest.raises(Unavailable):
        lane.step()
    lane.stop = False
    lane.step()
    assert lane.provider.calls == [[1]]


def test_a_slow_call_does_not_hold_up_the_others() -> None:
    lane = DelivererLane(threads=2)
    lane.warm_up()
    lane.order(*range(500))
    others_done, first = threading.Event(), threading.Lock()

    def wait_for_the_others(_: Call) -> None:
        if first.acquire(blocking=False):
            assert others_done.wait(WAIT_SECONDS)
        elif len(lane.provider.calls) == 10:
            others_done.set()

    lane.provider.meanwhile = wait_for_the_others
    lane.step()
    assert lane.outcomes() == {number: ["accepted"] for number in range(500)}


def test_rows_of_test_keys_get_a_receipt_and_reach_no_provider(lane: DelivererLane) -> None:
    lane.order(TEST_KEY, 1)
    lane.step()
    assert lane.provider.calls == [[1]]
    assert lane.outcomes() == {1: ["accepted"], TEST_KEY: ["accepted"]}
    [receipt] = [Receipt.decode(value) for value in lane.records("receipts")]
    assert (receipt.id, receipt.attempt, receipt.says) == (
        id_of(TEST_KEY),
        1,
        ReceiptKind.DELIVERED,
    )


def test_short_broker_failures_lose_no_outcome(lane: DelivererLane) -> None:
    lane.order(*range(60))
    lane.world.kafka.refusals = 4
    lane.step()
    assert lane.outcomes() == {number: ["accepted"] for number in range(60)}


@pytest.mark.parametrize("point", range(24))
@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.FREEZE, Fault.REBALANCE, Fault.BROKER])
def test_no_fault_sends_a_message_twice_or_skips_one(fault: Fault, point: int) -> None:
    lane = DelivererLane(threads=2)
    lane.order(*range(70))
    lane.world.faults = [(point, fault)]
    lane.world.meanwhile = lambda _: DelivererLane(beside=lane).step()
    try:
        lane.step()
        lane.step()
    except Unavailable:  # the second lane committed first, while this one had rows claimed
        lane.step()
    except Crash:
        lane.consumer.leave()
    lane.world.faults = []
    successor = DelivererLane(beside=lane)
    successor.step()
    successor.step()
    sent = Counter(number for call in lane.provider.calls for number in call)
    rows = lane.world.store.tables.rows
    for number in range(70):
        # Recovery, which does not run here, frees or resolves rows that a crash left claimed.
        left_claimed = fault is Fault.CRASH and rows[id_of(number)].state is State.CLAIMED
        assert sent[number] == 1 or (left_claimed and sent[number] == 0)


def test_a_lease_that_ends_between_started_and_the_call_reports_no_outcome() -> None:
    lane = DelivererLane(lease=0.7 * SECOND, threads=1)
    lane.order(1, 2)
    flush = lane.producer.flush

    def slow_flush() -> None:
        flush()
        if not lane.outcomes():
            time.sleep(0.8)

    lane.producer.flush = slow_flush  # type: ignore[method-assign]  # the broker is slow here
    lane.step()
    assert not lane.provider.calls
    assert not lane.outcomes()
