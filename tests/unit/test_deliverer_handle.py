"""The deliverer's handler: what is sent, told and given back, whatever the provider does."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from courant.contracts import KeyType, Outcomes, Persisted, Receipt, ReceiptKind, Started
from courant.errors import Unavailable
from courant.lifecycle import State
from courant.testing.builders import NOW, id_of
from courant.testing.world import Crash, Fault
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    CallEntry,
    ClaimedRow,
    ProviderOutcome,
    Rejected,
    RenderedEmail,
    RetryAlone,
    Throttled,
    Unknown,
)
from deliverer.pool import Lease, make_call
from support.deliverer import SECOND, SWITCHED_OFF, TEST_KEY, UNSENDABLE, Stand, told


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_what_is_ordered_is_sent_once_and_told(stand: Stand) -> None:
    stand.order(*range(120))
    stand.step()
    assert sorted(number for call in stand.provider.calls for number in call) == [*range(120)]
    assert sorted(map(len, stand.provider.calls)) == [20, 50, 50]
    assert stand.answers() == {number: ["accepted"] for number in range(120)}
    assert sum(each.count for each in stand.producer.stats) == 120


def test_a_second_order_sends_nothing(stand: Stand) -> None:
    stand.order(1, 1)
    stand.step()
    stand.order(1)
    stand.step()
    assert stand.provider.calls == [[1]]


def test_under_a_hold_nothing_is_claimed_and_the_orders_stay(stand: Stand) -> None:
    stand.order(1)
    stand.world.store.tables.held = True
    with pytest.raises(Unavailable):
        stand.step()
    stand.world.store.tables.held = False
    stand.step()
    assert stand.provider.calls == [[1]]


def test_nothing_is_claimed_while_messages_cannot_be_written(stand: Stand) -> None:
    stand.order(1)
    stand.ready = "the directory is not read yet"
    with pytest.raises(Unavailable, match="directory"):
        stand.step()
    assert not stand.claims.claimed


def test_what_cannot_be_sent_is_told_and_its_order_put_aside(stand: Stand) -> None:
    stand.order(1, UNSENDABLE)
    stand.step()
    assert stand.provider.calls == [[1]]
    assert stand.answers() == {1: ["accepted"], UNSENDABLE: ["unsendable"]}
    assert [Persisted.decode(value).id for value in stand.records("persisted.dead")] == [
        id_of(UNSENDABLE)
    ]


def test_a_service_that_is_switched_off_leaves_no_dead_letters(stand: Stand) -> None:
    stand.order(SWITCHED_OFF)
    stand.step()
    assert stand.answers() == {SWITCHED_OFF: ["unsendable"]}
    assert not stand.records("persisted.dead")


def test_throttled_entries_go_into_the_next_call_as_the_same_attempt(stand: Stand) -> None:
    stand.order(1, 2)
    stand.provider.script[2] = [Throttled("fast"), Accepted("m")]
    stand.step()
    assert stand.provider.calls == [[1, 2], [2]]
    assert stand.answers() == {1: ["accepted"], 2: ["accepted"]}
    started = [each for each in told(stand.world) if isinstance(each, Started)]
    assert len({each.call for each in started}) == 2
    assert {entry.attempt for each in started for entry in each.attempts} == {1}


def test_what_is_throttled_to_the_leases_end_is_put_back_without_blame() -> None:
    stand = Stand(lease=1.2 * SECOND)
    stand.order(1)
    stand.provider.script[1] = [Throttled("fast")]
    with pytest.raises(Unavailable):
        stand.step()
    assert len(stand.provider.calls) > 1
    assert stand.answers() == {1: ["deferred"]}
    [answer] = [a for each in told(stand.world) if isinstance(each, Outcomes) for a in each.answers]
    assert not answer.blames


def test_a_call_refused_for_one_of_its_entries_is_tried_one_by_one(stand: Stand) -> None:
    stand.order(1, 2, 3)
    for number in (1, 3):
        stand.provider.script[number] = [RetryAlone("bad"), Accepted("m")]
    stand.provider.script[2] = [RetryAlone("bad"), Rejected("bad")]
    stand.step()
    assert sorted(map(sorted, stand.provider.calls)) == [[1], [1, 2, 3], [2], [3]]
    assert stand.answers() == {1: ["accepted"], 2: ["rejected"], 3: ["accepted"]}


def test_trouble_puts_all_back_and_one_probe_comes_before_the_rest() -> None:
    stand = Stand(threads=1)
    stand.warm_up()
    stand.order(*range(120))
    stand.provider.script = {number: [AccountTrouble("suspended")] for number in range(120)}
    with pytest.raises(Unavailable, match="released"):
        stand.step()
    assert len(stand.provider.calls) == 1
    assert stand.answers() == {number: ["deferred"] for number in range(120)}

    stand.order(*range(200, 210))
    with pytest.raises(Unavailable, match="suspended"):
        stand.step()
    stand.now += 60
    stand.provider.script = {number: [AccountTrouble("suspended")] for number in range(200, 210)}
    with pytest.raises(Unavailable, match="suspended"):
        stand.step()
    assert [len(call) for call in stand.provider.calls] == [50, 1]

    stand.now += 60
    stand.provider.script = {}
    stand.step()
    assert [len(call) for call in stand.provider.calls] == [50, 1, 1, 8]


def test_calls_whose_outcome_is_unknown_open_the_breaker_after_a_few() -> None:
    stand = Stand(threads=1)
    stand.warm_up()
    stand.order(*range(500))
    stand.provider.script = {number: [Unknown("late")] for number in range(500)}
    with pytest.raises(Unavailable, match="released"):
        stand.step()
    assert len(stand.provider.calls) == 5
    outcomes = [outcome for each in stand.answers().values() for outcome in each]
    assert (outcomes.count("unknown"), outcomes.count("deferred")) == (250, 250)


def test_a_stop_lets_calls_end_and_leaves_nothing_claimed() -> None:
    stand = Stand(threads=1)
    stand.warm_up()
    stand.order(*range(500))

    def stop(_: Call) -> None:
        stand.stop = True

    stand.provider.meanwhile = stop
    with pytest.raises(Unavailable, match="released"):
        stand.step()
    assert len(stand.provider.calls) == 1
    outcomes = [outcome for each in stand.answers().values() for outcome in each]
    assert (outcomes.count("accepted"), outcomes.count("deferred")) == (50, 450)
    assert sorted(stand.claims.claimed) == sorted(stand.answers())


def test_what_is_not_claimed_at_a_stop_stays_in_the_log(stand: Stand) -> None:
    stand.order(1)
    stand.stop = True
    with pytest.raises(Unavailable):
        stand.step()
    stand.stop = False
    stand.step()
    assert stand.provider.calls == [[1]]


def test_a_slow_call_holds_up_no_other() -> None:
    stand = Stand(threads=2)
    stand.warm_up()
    stand.order(*range(500))
    others_done, first = threading.Event(), threading.Lock()

    def wait_for_the_others(_: Call) -> None:
        if first.acquire(blocking=False):
            assert others_done.wait(10)
        elif len(stand.provider.calls) == 10:
            others_done.set()

    stand.provider.meanwhile = wait_for_the_others
    stand.step()
    assert stand.answers() == {number: ["accepted"] for number in range(500)}


def test_test_keys_are_answered_with_a_receipt_and_no_provider_hears_of_them(stand: Stand) -> None:
    stand.order(TEST_KEY, 1)
    stand.step()
    assert stand.provider.calls == [[1]]
    assert stand.answers() == {1: ["accepted"], TEST_KEY: ["accepted"]}
    [receipt] = [Receipt.decode(value) for value in stand.records("receipts")]
    assert (receipt.id, receipt.attempt, receipt.says) == (
        id_of(TEST_KEY),
        1,
        ReceiptKind.DELIVERED,
    )


def test_a_broker_that_blinks_costs_no_outcome(stand: Stand) -> None:
    stand.order(*range(60))
    stand.world.kafka.refusals = 4
    stand.step()
    assert stand.answers() == {number: ["accepted"] for number in range(60)}


@pytest.mark.parametrize("place", range(24))
@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.FREEZE, Fault.REBALANCE, Fault.BROKER])
def test_whatever_strikes_nobody_hears_of_a_message_twice_and_none_is_passed_over(
    fault: Fault, place: int
) -> None:
    stand = Stand(threads=2)
    stand.order(*range(70))
    stand.world.faults = [(place, fault)]
    stand.world.meanwhile = lambda _: Stand(beside=stand).step()
    try:
        stand.step()
        stand.step()
    except Unavailable:  # the second one was first to commit, in the claim of this one
        stand.step()
    except Crash:
        stand.consumer.leave()
    stand.world.faults = []
    after = Stand(beside=stand)
    after.step()
    after.step()
    heard = Counter(number for call in stand.provider.calls for number in call)
    rows = stand.world.store.tables.rows
    for number in range(70):
        # What a crash left claimed is freed or resolved by recovery, which is not here.
        left = fault is Fault.CRASH and rows[id_of(number)].state is State.CLAIMED
        assert heard[number] == 1 or (left and heard[number] == 0)


def entries(*numbers: int) -> tuple[CallEntry, ...]:
    rows = [ClaimedRow(id_of(n), 1, 0, UUID(int=7), KeyType.NORMAL, UUID(int=9), 1, None, b"", NOW)
            for n in numbers]  # fmt: skip
    mail = RenderedEmail("subject", "text", "html", "{}")
    return tuple(CallEntry(row, "us@example.ca", None, "a@example.org", mail, 1000) for row in rows)


class Short:
    """Gives fewer outcomes than there were entries."""

    name = "short"
    calls = 0

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        self.calls += 1
        return [Accepted("m")] * (len(call.entries) - 1)


def test_a_provider_that_gives_too_few_outcomes_is_not_believed() -> None:
    call = Call(UUID(int=1), entries(1, 2))
    said = make_call(Short(), call, Lease(SECOND, age=lambda: 0), timedelta())
    assert [type(each) for each in said] == [Unknown, Unknown]


@pytest.mark.parametrize(("age", "calls"), [(7.9, 1), (8.1, 0), (11.0, 0)])
def test_a_call_is_made_only_where_the_lease_covers_all_of_it(age: float, calls: int) -> None:
    provider = Short()
    lease = Lease(10 * SECOND, age=lambda: age)
    said = make_call(provider, Call(UUID(int=1), entries(1, 2)), lease, 2 * SECOND)
    assert (provider.calls, bool(said)) == (calls, bool(calls))


def test_a_lease_that_ends_between_announcing_and_calling_says_nothing() -> None:
    stand = Stand(lease=0.7 * SECOND, threads=1)
    stand.order(1, 2)
    flush = stand.producer.flush

    def slow() -> None:
        flush()
        if not stand.answers():
            time.sleep(0.8)

    stand.producer.flush = slow  # type: ignore[method-assign]  # the broker is slow here
    stand.step()
    assert not stand.provider.calls
    assert not stand.answers()
