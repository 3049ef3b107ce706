"""The deliverer's handler: what it sends, reports and releases, whatever the provider does."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from courant.contracts import (
    AttemptOutcome,
    Outcomes,
    Persisted,
    Receipt,
    ReceiptKind,
    Started,
)
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.testing.builders import id_of
from courant.testing.world import Crash, Fault
from deliverer import flight
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    Deferred,
    Refusal,
    Rejected,
    RetryAlone,
    SenderTrouble,
    Throttled,
    Unknown,
)
from deliverer.evidence import Evidence
from deliverer.route import Route
from deliverer.senders import Senders
from support.deliverer import (
    EMPTIED,
    OTHER_SERVICE,
    SECOND,
    SWITCHED_OFF,
    TEST_KEY,
    UNSENDABLE,
    DelivererLane,
    delivery_records,
)
from support.mistakes import replace
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


@pytest.mark.parametrize("number", [SWITCHED_OFF, EMPTIED])
def test_what_needs_no_repair_leaves_no_dead_letters(lane: DelivererLane, number: int) -> None:
    lane.order(number)
    lane.step()
    assert lane.outcomes() == {number: ["unsendable"]}
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


def test_a_message_known_not_to_have_been_sent_is_reported_at_once() -> None:
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
    assert lane.outcomes() == {1: ["deferred"], 2: ["deferred"]}
    [started] = [each for each in delivery_records(lane.world) if isinstance(each, Started)]
    assert started.call in {
        each.call for each in delivery_records(lane.world) if isinstance(each, Outcomes)
    }


def test_a_call_that_is_never_answered_is_unknown_after_its_lease_and_the_lane_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "OVERTIME_SECONDS", 0.1)
    lane = DelivererLane(lease=1.2 * SECOND, threads=1)
    lane.order(1)
    answered = threading.Event()
    lane.provider.meanwhile = lambda _: answered.wait(WAIT_SECONDS)
    lane.step()
    assert lane.outcomes() == {1: ["unknown"]}
    lane.provider.meanwhile = lambda _: None
    lane.order(2)
    lane.step()
    assert lane.outcomes() == {1: ["unknown"], 2: ["accepted"]}
    answered.set()


REFUSED = Refusal(Rejected("SomethingNew"))
BLAMED = Refusal(Deferred("SomethingNew", blames=True))


def answers(lane: DelivererLane) -> list[AttemptOutcome]:
    reports = [each for each in delivery_records(lane.world) if isinstance(each, Outcomes)]
    return [answer for report in reports for answer in report.answers]


def deliver(lane: DelivererLane) -> None:
    with contextlib.suppress(Unavailable):
        lane.step()


@pytest.mark.parametrize("refusal", [REFUSED, BLAMED, Refusal(REFUSED.proven, True)])
@pytest.mark.parametrize("before", [0, 3])
def test_ten_refusals_in_a_row_open_the_breaker_and_blame_no_message(
    refusal: Refusal, before: int
) -> None:
    lane = DelivererLane(threads=1)
    lane.order(*range(300, 300 + before))
    lane.step()
    lane.provider.script = {number: [refusal] for number in range(100)}
    for number in range(30):
        lane.order(number)
        deliver(lane)
    final = [each for each in answers(lane) if each.outcome == "rejected"]
    # The provider's words about a recipient are believed once, right after an acceptance.
    assert len(final) == bool(before and refusal.names_recipient)
    assert not any(each.blames for each in answers(lane))
    assert not lane.breaker.is_closed
    assert len(lane.provider.calls) - bool(before) <= 11


def test_after_the_repair_one_probe_resumes_sending_and_all_are_sent() -> None:
    lane = DelivererLane(threads=1)
    lane.provider.script = {number: [REFUSED] for number in range(20)}
    for number in range(20):
        lane.order(number)
        deliver(lane)
    lane.provider.script = {}
    lane.now += 30
    deliver(lane)
    refused = [number for number, each in lane.outcomes().items() if each == ["deferred"]]
    lane.order_again(*refused)
    lane.step()
    assert lane.breaker.is_closed
    assert {each[-1] for each in lane.outcomes().values()} == {"accepted"}
    assert len(lane.outcomes()) == 20


def test_a_message_refused_beside_others_of_its_call_fails_at_once(lane: DelivererLane) -> None:
    lane.order(1, 2, 3)
    lane.provider.script[2] = [REFUSED]
    lane.step()
    assert lane.outcomes() == {1: ["accepted"], 2: ["rejected"], 3: ["accepted"]}


def test_a_message_refused_again_after_others_were_accepted_is_to_blame(
    lane: DelivererLane,
) -> None:
    lane.provider.script[1] = [REFUSED]
    lane.order(1)
    lane.step()
    assert lane.outcomes() == {1: ["deferred"]}
    lane.order(2)
    lane.step()
    lane.order_again(1)
    lane.step()
    assert lane.outcomes() == {1: ["deferred", "rejected"], 2: ["accepted"]}


def test_a_message_refused_alone_all_night_ends_as_its_refusal_says(lane: DelivererLane) -> None:
    lane.provider.script[1] = [REFUSED]
    lane.order(1)
    lane.step()
    while lane.outcomes()[1][-1] == "deferred":
        lane.order_again(1)
        lane.step()
    assert lane.outcomes()[1][-1] == "rejected"
    waits = [each.retry_after for each in answers(lane)]
    assert timedelta(minutes=4) < sum(waits, timedelta()) < timedelta(minutes=10)
    assert max(waits) <= 30 * SECOND
    assert lane.breaker.is_closed


def test_the_order_of_a_message_whose_tries_are_used_up_is_dead_lettered(
    lane: DelivererLane,
) -> None:
    lane.provider.script[1] = [BLAMED]
    lane.store.tries[1] = 4
    lane.order(1, 2)
    lane.step()
    assert lane.outcomes() == {1: ["unsendable"], 2: ["accepted"]}
    assert [Persisted.decode(value).id for value in lane.records("persisted.dead")] == [id_of(1)]


def test_a_sender_that_is_not_accepted_stops_only_its_own_messages(lane: DelivererLane) -> None:
    lane.provider.script = {number: [SenderTrouble("unverified")] for number in OTHER_SERVICE}
    for number in range(30):
        lane.order(number, OTHER_SERVICE[number])
        lane.step()
        assert lane.breaker.is_closed
    others = [call for call in lane.provider.calls if call[0] in OTHER_SERVICE]
    assert len(others) == 1
    mine = {number: lane.outcomes()[number] for number in range(30)}
    assert mine == {number: ["accepted"] for number in range(30)}
    waiting = [each for each in answers(lane) if each.outcome == "deferred"]
    assert len(waiting) == 30
    assert not any(each.blames for each in waiting)
    assert max(each.retry_after for each in waiting) <= 30 * SECOND


def test_a_repaired_sender_is_probed_by_one_message_and_then_sends_all(
    lane: DelivererLane,
) -> None:
    first, second, third = OTHER_SERVICE[:3]
    lane.provider.script[first] = [SenderTrouble("unverified"), Accepted("m")]
    lane.order(first)
    lane.step()
    lane.now += 20
    lane.order_again(first)
    lane.order(second, third)
    lane.step()
    lane.order_again(second, third)
    lane.step()
    assert lane.outcomes() == {
        number: ["deferred", "accepted"] for number in (first, second, third)
    }


def test_several_senders_that_are_not_accepted_open_the_breaker(lane: DelivererLane) -> None:
    numbers = [*range(20), *OTHER_SERVICE[:20]]
    lane.provider.script = {number: [SenderTrouble("unverified")] for number in numbers}
    for pair in zip(range(20), OTHER_SERVICE, strict=False):
        lane.now += 20
        lane.order(*pair)
        deliver(lane)
    assert not lane.breaker.is_closed
    assert not any(each.blames or each.outcome != "deferred" for each in answers(lane))


def test_a_file_of_bad_recipients_ends_and_does_not_pause_other_services(
    lane: DelivererLane,
) -> None:
    bad = OTHER_SERVICE[:40]
    lane.provider.script = {number: [REFUSED] for number in bad}
    good = iter(range(600))
    lane.order(next(good))
    lane.step()
    lane.order(*bad)
    lane.step()
    assert lane.breaker.is_closed
    for _ in range(5):
        lane.now += 5
        lane.order(next(good))
        lane.step()
        assert lane.breaker.is_closed
        lane.order_again(*(n for n in bad if lane.outcomes()[n][-1] == "deferred"))
        lane.step()
    assert {lane.outcomes()[number][-1] for number in bad} == {"rejected"}


ALL_REFUSED = test_ten_refusals_in_a_row_open_the_breaker_and_blame_no_message


def as_fixture(check: Callable[[DelivererLane], None]) -> Callable[[], None]:
    return lambda: check(DelivererLane())


@pytest.mark.parametrize(
    ("owner", "name", "right", "wrong", "check"),
    [
        (Evidence, "_is_own_fault", "if self._refused:", "if False:",
         lambda: ALL_REFUSED(Refusal(REFUSED.proven, True), 3)),
        (Evidence, "refuse", "self._refused[id] = service, self._moment", "",
         lambda: ALL_REFUSED(REFUSED, 0)),
        (Evidence, "_is_own_fault", "suspect.accepted_between > 0", "True",
         lambda: ALL_REFUSED(REFUSED, 0)),
        (Evidence, "refuse", "<= self._accepted_from", "<= self._moment",
         lambda: test_a_message_refused_alone_all_night_ends_as_its_refusal_says(DelivererLane())),
        (Evidence, "is_against_all", "return not is_senders and not recent", "return True",
         as_fixture(test_a_file_of_bad_recipients_ends_and_does_not_pause_other_services)),
        (Senders, "wait_for", "pause.until = now + pause.seconds", "pass",
         as_fixture(test_a_repaired_sender_is_probed_by_one_message_and_then_sends_all)),
        (Route, "_learn", "self.evidence.refuse_sender(first.row.id, first.row.service_id)", "pass",
         as_fixture(test_several_senders_that_are_not_accepted_open_the_breaker)),
        (flight.InFlightCalls, "_report_unsent",
         "self._pending.append(rules.finished(call.id, answers))", "pass",
         test_a_message_known_not_to_have_been_sent_is_reported_at_once),
    ],
)  # fmt: skip
def test_a_mistake_about_refusals_is_detected(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    right: str,
    wrong: str,
    check: Callable[[], None],
) -> None:
    replace(monkeypatch, owner, name, right, wrong)
    with pytest.raises(AssertionError):
        check()
