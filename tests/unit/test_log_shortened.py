"""A saver whose log lost records that it has folded: what it notices, and where it goes on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from courant import consume, metrics, records
from courant.consume import Stage
from courant.lifecycle import State
from courant.records import Unbroken, span_of
from courant.testing import builders, store
from courant.testing.builders import RECEIPTS, id_of, notification, outgoing, receipt
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.store import FakeStore
from courant.testing.tables import FakeRow
from courant.testing.world import World
from courant.topics import Partition
from saver import handle
from support import mistakes


class Saver:
    """A saver of receipts, and the log that it reads."""

    def __init__(self) -> None:
        self.world = World()
        self.stage: Stage[Any] = handle.stages(self.world.store)[-1]
        self.consumer = FakeConsumer(self.world.kafka, self.stage.group, self.stage.topics)
        self.unbroken = Unbroken()
        row = FakeRow(notification(1), State.SENDING, 1)
        self.world.store.tables.rows[id_of(1)] = row
        self.receive("delivered", "delayed")
        self.step()
        [self.partition] = self.world.store.tables.positions

    def receive(self, *says: str) -> None:
        for each in says:
            self.world.kafka.append(outgoing(receipt(1, each)))

    def step(self, comparing: bool = False) -> None:
        producer = FakeProducer(self.world.kafka)
        consume.step(self.consumer, producer, self.stage, comparing, unbroken=self.unbroken)

    def lose(self, count: int) -> None:
        """The log loses so many records, and its broker comes back."""
        self.world.kafka.lose(self.world.kafka.written[-count:])
        self.world.clock += 1

    def moves(self) -> list[str]:
        return [str(move) for move, *_ in self.world.store.tables.events]

    def position(self, partition: Partition | None = None) -> int:
        return self.world.store.tables.positions[partition or self.partition]


def test_a_log_that_ends_before_the_position_is_noticed_while_it_is_idle() -> None:
    saver = Saver()
    lost = metrics.SHORTENED.labels(RECEIPTS)._value.get()
    saver.lose(2)
    saver.step(comparing=True)
    assert saver.world.store.tables.held
    assert saver.position() == saver.consumer.positions()[saver.partition] == 0
    assert saver.world.kafka.committed[saver.stage.group, saver.partition] == 0
    assert metrics.SHORTENED.labels(RECEIPTS)._value.get() == lost + 2
    saver.receive("bounced")
    saver.step()
    assert saver.moves() == ["delivered", "delayed", "bounced"]


def test_new_records_below_the_position_are_folded_though_the_log_has_grown_past_it() -> None:
    saver = Saver()
    saver.lose(1)
    saver.receive("delivered", "bounced")  # at offsets 1 and 2; the saver goes on at 2
    saver.step()
    assert saver.world.store.tables.held
    assert saver.position() == 1
    saver.step()
    assert saver.moves() == ["delivered", "delayed", "delivered", "bounced"]
    assert saver.position() == 3


def test_a_recreated_topic_is_folded_from_its_start_under_its_new_id() -> None:
    saver = Saver()
    saver.world.kafka.recreate(RECEIPTS)
    saver.world.clock += 1
    saver.receive("bounced")
    for _ in range(2):
        saver.step()
    [new] = [each for each in saver.world.store.tables.positions if each != saver.partition]
    assert new.topic_id != saver.partition.topic_id
    assert saver.position(new) == 1
    assert saver.world.store.tables.held
    assert saver.moves() == ["delivered", "delayed", "bounced"]


def test_ordinary_faults_raise_no_hold() -> None:
    saver = Saver()
    saver.consumer.seek({saver.partition: 0})  # as after a rebalance
    saver.step(comparing=True)
    saver.world.clock += 9
    saver.receive("bounced")
    saver.step(comparing=True)
    assert not saver.world.store.tables.held
    assert saver.moves() == ["delivered", "delayed", "bounced"]


def test_only_the_next_record_within_a_second_follows_unbroken() -> None:
    first = builders.record(receipt(1, "sent"))
    unbroken = Unbroken()

    def breaks(offset: int, seconds: float) -> bool:
        time = first.timestamp + records.SILENCE * seconds
        return bool(unbroken.broken(span_of([replace(first, offset=offset, timestamp=time)])))

    assert breaks(0, 0), "nothing was read before"
    unbroken.remember(span_of([first]))
    assert not breaks(1, 0)
    assert not breaks(1, 1)
    assert breaks(1, 1.1)
    assert breaks(1, -1)
    assert breaks(2, 0)


GROWN = test_new_records_below_the_position_are_folded_though_the_log_has_grown_past_it
RECREATED = test_a_recreated_topic_is_folded_from_its_start_under_its_new_id
# The owner, the function, the right words, the wrong words, the test that must notice.
MISTAKES: list[tuple[Any, str, str, str, Callable[[], None]]] = [
    (Unbroken, "_follows", "last is not None and all(", "True or all(", GROWN),
    (consume, "compare", "if folded:", "if False:", GROWN),
    (consume, "cut", "stage.cut(Shortened(shortened.folded, firsts))", "pass", GROWN),
    (FakeStore, "cut", "tables.hold(self.world.now())", "pass", GROWN),
    (store, "folded", "default=Folded(0))", "default=Folded(0)) and Folded(0)", RECREATED),
]


@pytest.mark.parametrize("mistake", range(len(MISTAKES)))
def test_the_mistake_is_noticed(mistake: int, monkeypatch: pytest.MonkeyPatch) -> None:
    *where, noticing = MISTAKES[mistake]
    mistakes.replace(monkeypatch, *where)
    with pytest.raises(AssertionError):
        noticing()
