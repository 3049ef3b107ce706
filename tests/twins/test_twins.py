"""The same tests on the fake store and on PostgreSQL: both must behave the same."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import Engine

from courant import clock
from courant.contracts import Heartbeat
from courant.errors import Behind, Shortened, Unavailable
from courant.lifecycle import REPORTED, Report, State
from courant.records import Record, Stretch, sift
from courant.testing import builders
from courant.testing.builders import NOW, id_of, notification, outcomes, receipt, started, untagged
from courant.topics import Folded
from saver import handle, rules
from support.saver import FakeTwin, PostgresTwin, Twin, batch, save, settle

SECOND = timedelta(seconds=1)
DELIVERED = builders.record(started(1, {1: 1}))


@pytest.fixture(params=["fake", "postgres"])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "fake":
        return FakeTwin()
    return PostgresTwin(request.getfixturevalue("engine"))


def test_saving_again_changes_nothing_and_orders_rows_that_still_wait(twin: Twin) -> None:
    save(twin, notification(1), notification(2), notification(3))
    twin.put(1, State.CLAIMED, 1)
    twin.put(2, State.CREATED, 1)  # tried before, so that recovery orders it next
    _, orders = save(twin, notification(1), notification(2), notification(3))
    assert [each.key for each in orders] == [id_of(3).bytes]
    assert [row[:3] for row in twin.rows()] == [
        (1, "claimed", 1),
        (2, "created", 1),
        (3, "created", 0),
    ]


def test_a_scheduled_row_is_due_when_its_time_comes_however_late_it_is_saved(twin: Twin) -> None:
    week = timedelta(days=7)
    times = {1: clock.now() - week, 2: clock.now() + week, 3: None}
    save(
        twin,
        *(msgspec.structs.replace(notification(n), scheduled_for=at) for n, at in times.items()),
    )
    # Recovery's sweep `due` finds rows whose last order came before their time.
    assert twin.ordered_before_their_time() == [1, 2]


def test_records_that_left_the_log_are_skipped_though_none_was_folded(twin: Twin) -> None:
    partition = builders.partition(builders.INBOX)
    with pytest.raises(Behind):
        twin.store.compare({partition: 500})
    twin.store.skip({partition: 500})
    twin.store.compare({partition: 500})
    twin.store.skip({partition: 3})
    twin.store.compare({partition: 500})
    with twin.store.fold({partition: Stretch([builders.record(notification(1), 500)])}):
        pass
    twin.store.compare({partition: 501})


def test_texts_are_read_back_unchanged(twin: Twin) -> None:
    texts = [None, "", r"\N", r"\.", "\t", "a\nb\r\n", "\\", "'\"", "é😀"]
    save(twin, *(notification(number, each) for number, each in enumerate(texts)))
    assert [row[3] for row in twin.rows()] == texts


def test_a_refused_row_does_not_hold_up_the_good_ones(twin: Twin) -> None:
    good, bad = [notification(number) for number in (1, 2, 3, 5)], notification(4, "a\0b")
    dead, orders = save(twin, *good[:3], bad, good[3])
    assert [(each.record.offset, each.reason[:5]) for each in dead] == [(3, "22021")]
    assert len(orders) == len(twin.rows()) == 4


def test_too_many_refused_rows_raise_unavailable_and_change_nothing(twin: Twin) -> None:
    with pytest.raises(Unavailable, match="11 of 12"):
        save(twin, notification(0), *(notification(number, "\0") for number in range(1, 12)))
    assert twin.rows() == []


def test_moves_of_one_row_are_made_in_the_order_of_their_records(twin: Twin) -> None:
    save(twin, notification(1))
    story: list[rules.ReportRecord] = [
        started(1, {1: 1}),
        outcomes(1, {1: (1, "deferred")}),
        started(2, {1: 2}),
        receipt(1, "delivered", 2),
        outcomes(2, {1: (2, "accepted")}),
        receipt(1, "delayed", 2),
    ]
    with twin.store.fold({}) as fold:
        handle.fold_reports(fold, story)
    assert twin.rows() == [(1, "temporary-failure", 2, None)]


def test_records_folded_before_move_nothing_again(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.SENDING, 1)
    settle(twin, receipt(1, "delivered"), receipt(1, "delayed"))
    settle(twin, receipt(1, "delivered"))  # a saver that was frozen wakes up
    assert twin.rows() == [(1, "temporary-failure", 1, None)]


def test_a_receipt_without_tags_is_that_of_the_row_with_its_message_id(twin: Twin) -> None:
    save(twin, notification(1), notification(2))
    twin.put(1, State.CLAIMED, 3)
    settle(twin, outcomes(1, {1: (3, "accepted")}))
    settle(
        twin,
        untagged("message-1", "delayed", "m-1", second=2),
        untagged("message-1", "delivered", "m-2", second=1),
        untagged("message-2", "delivered", "m-3"),
    )
    assert [row[:3] for row in twin.rows()] == [(1, "temporary-failure", 3), (2, "created", 0)]
    assert twin.waiting() == [("m-3", "message-2")]


def test_a_receipt_whose_row_is_not_known_waits_once(twin: Twin) -> None:
    early = untagged("message-1", "delivered", "m-1")
    settle(twin, early)
    settle(twin, early, early, offset=1)
    assert twin.waiting() == [("m-1", "message-1")]


def test_a_row_of_long_ago_is_not_looked_for(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.CLAIMED, 1)
    settle(twin, outcomes(1, {1: (1, "accepted")}))
    late = untagged("message-1", "delivered", "m-1")
    [keep] = batch(late).kept
    record = replace(keep.record, timestamp=builders.NOW + timedelta(days=9))
    [*handle.settle(twin.store, sift([record], rules.read_receipt))]
    assert twin.waiting() == [("m-1", "message-1")]


def test_a_gap_before_a_batch_raises_the_hold(twin: Twin) -> None:
    save(twin, notification(1))
    with pytest.raises(Behind) as raised:
        save(twin, notification(2), offset=2)
    assert list(raised.value.positions.values()) == [1]
    assert [row[0] for row in twin.rows()] == [1]


def test_a_record_waits_for_its_row_until_the_inbox_has_passed_a_mark(twin: Twin) -> None:
    save(twin, notification(1))
    twin.put(1, State.CLAIMED, 1)
    accepted = outcomes(1, {1: (1, "accepted"), 2: (1, "accepted")})
    twin.mark(2)
    with pytest.raises(Unavailable, match="may still be in the inbox"):
        settle(twin, accepted)
    save(twin, notification(1), offset=1)
    [[dead]] = settle(twin, accepted)
    assert dead.reason.startswith("id: no row has it")
    assert twin.rows() == [(1, "sending", 1, None)]  # its outcome for the other row counts


def test_a_receipt_that_was_put_off_deletes_the_marks_of_receipts_alone(twin: Twin) -> None:
    twin.mark(1)
    settle(twin, Heartbeat(at=NOW))
    inbox, receipts = twin.rest()[4:6]
    assert (inbox, receipts) == (1, 1)
    assert settle(
        twin, Heartbeat(at=NOW, trouble="the certificate cannot be fetched"), offset=1
    ) == [[]]
    inbox, receipts = twin.rest()[4:6]
    assert (inbox, receipts) == (1, 0)
    twin.mark(1)
    inbox, receipts = twin.rest()[4:6]
    assert (inbox, receipts) == (2, 1)


def test_a_hold_that_is_raised_again_starts_from_the_beginning(engine: Engine) -> None:
    twin = PostgresTwin(engine)
    seen = []
    for _ in range(2):
        twin.mark(1)
        with pytest.raises(Behind):
            save(twin, notification(1), offset=1)
        seen += twin.ask("SELECT raised_at, epoch, stands FROM holds WHERE scope = 'rebuild'")
        assert twin.ask("SELECT FROM marks") == []
        twin.ask("UPDATE holds SET stands = false")
    (raised_at, epoch, stands), second = seen
    assert stands
    assert epoch == round((raised_at - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds())
    assert second > seen[0]


def test_a_missing_day_raises_unavailable_and_is_made_again(engine: Engine) -> None:
    twin = PostgresTwin(engine)
    save(twin, notification(1))
    [(table,)] = twin.ask("SELECT tableoid::regclass::text FROM notifications")
    twin.ask(f"DROP TABLE {table}")
    with pytest.raises(Unavailable, match="23514"):
        save(twin, notification(2), offset=1)
    save(twin, notification(2), offset=1)
    assert [row[0] for row in twin.rows()] == [2]


def test_another_server_raises_the_hold(engine: Engine) -> None:
    twin = PostgresTwin(engine)
    save(twin, notification(1))
    assert twin.ask("SELECT FROM holds") == []
    twin.ask("UPDATE servers SET id = 'the one before'")
    save(twin, notification(1))
    assert twin.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [("jobs",), ("rebuild",)]


def test_sql_and_python_allow_the_same_moves(engine: Engine) -> None:
    twins: list[Twin] = [FakeTwin(), PostgresTwin(engine)]
    cases = list(enumerate(product(REPORTED, State, range(3))))
    for twin in twins:
        for number, (_, state, attempt) in cases:
            twin.put(number, state, attempt)
        with twin.store.fold({}) as fold:
            fold.settle([[Report(id_of(n), 1, move) for n, (move, _, _) in cases]], [], [])
    assert twins[0].rows() == twins[1].rows()


def test_a_record_below_the_position_is_new_only_if_it_is_newer_than_all_that_was_folded(
    twin: Twin,
) -> None:
    save(twin, notification(1), notification(2))
    settle(twin, at(0, NOW), at(1, NOW + SECOND))
    # Read again, by a saver that was frozen, and in the same millisecond as the newest.
    settle(twin, at(0, NOW))
    settle(twin, at(0, NOW), at(1, NOW + SECOND))
    with pytest.raises(Shortened) as raised:
        settle(twin, at(0, NOW), at(1, NOW + 2 * SECOND))
    assert raised.value.firsts == {DELIVERED.partition: 1}
    assert raised.value.folded == {DELIVERED.partition: Folded(2, NOW + SECOND)}
    assert not held(twin)
    twin.store.cut(raised.value)
    assert held(twin)
    assert settle(twin, at(1, NOW + 2 * SECOND)) == [[]]
    assert twin.store.compare({DELIVERED.partition: 2}) == {
        DELIVERED.partition: Folded(2, NOW + 2 * SECOND)
    }


def test_a_cut_that_comes_after_another_changes_nothing(twin: Twin) -> None:
    save(twin, notification(1))
    settle(twin, at(0, NOW), at(1, NOW + SECOND))
    shortened = Shortened(twin.store.compare({DELIVERED.partition: 2}), {DELIVERED.partition: 1})
    twin.store.cut(shortened)
    settle(twin, at(1, NOW + 2 * SECOND))
    twin.store.cut(shortened)
    assert twin.store.compare({DELIVERED.partition: 2})[DELIVERED.partition].next == 2


def test_a_clock_that_went_back_makes_no_record_new(twin: Twin) -> None:
    save(twin, notification(1))
    settle(twin, at(0, NOW + SECOND), at(1, NOW))
    settle(twin, at(0, NOW + SECOND), at(1, NOW))
    assert not held(twin)


def test_a_cut_opens_a_call_for_each_claimed_row(twin: Twin) -> None:
    save(twin, *map(notification, range(1, 4)))
    twin.put(1, State.CLAIMED, 1)
    twin.put(2, State.SENDING, 1)
    # Whichever topic shows the loss: `delivery` may have lost a `started` that was not folded.
    inbox = builders.partition(builders.INBOX)
    twin.store.cut(Shortened(twin.store.compare({inbox: 0}), {inbox: 0}))
    _, calls, *_ = twin.rest()
    assert [notification for _, notification, _ in calls] == [id_of(1)]


def test_a_recreated_topic_has_the_position_of_the_former_one_until_it_is_cut(twin: Twin) -> None:
    save(twin, notification(1))
    settle(twin, at(0, NOW), at(1, NOW + SECOND))
    recreated = DELIVERED.partition._replace(topic_id=UUID(int=1))
    more = recreated._replace(number=1)
    folded = twin.store.compare({recreated: 0, more: 0})
    assert folded == {recreated: Folded(2, NOW + SECOND), more: Folded(0)}
    twin.store.cut(Shortened(folded, {recreated: 0}))
    assert held(twin)
    assert twin.store.compare({recreated: 0}) == {recreated: Folded(0, NOW + SECOND)}


def held(twin: Twin) -> bool:
    return bool(twin.rest()[3])


def at(offset: int, time: datetime) -> Record:
    """Return a record of `delivery` with this offset and broker's time."""
    return replace(DELIVERED, offset=offset, timestamp=time)
