"""What Kafka's clients leave behind while no broker answers.

An admin client ends where it was made: one that the collector ends can abort the process. What a
producer is told it keeps until it is asked.
"""

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psutil
import pytest

from courant import consume
from courant.errors import Unavailable
from courant.kafka import offsets
from courant.kafka.clients import Cluster
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.testing.kafka import FakeConsumer
from courant.testing.world import World
from support.waiting import wait

TIMES = 20
TOLD = 3


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of a broker that takes connections and says nothing."""
    monkeypatch.setattr(offsets, "ANSWER_SECONDS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield "{}:{}".format(*listening.getsockname())


@contextmanager
def uncollected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def threads_left_by(ask: Callable[[], object]) -> int:
    """Ask in vain, time after time; tell how many threads that leaves."""
    before = psutil.Process().num_threads()
    for _ in range(TIMES):
        with pytest.raises(Unavailable):
            ask()
    return psutil.Process().num_threads() - before


def test_a_consumer_ends_the_client_that_it_asks_before_it_joins(silent: str) -> None:
    with closing(KafkaConsumer(Cluster(silent), "test", ["test"])) as consumer, uncollected():
        assert threads_left_by(lambda: consumer.poll(1)) < TIMES


def test_a_stage_without_work_asks_what_its_producer_was_told() -> None:
    world = World()
    nobody = Cluster("127.0.0.1:1")
    producer = KafkaProducer(nobody, "test")
    stage = consume.Stage("group", ("inbox.email.normal",), never, never)
    wait(lambda: len(producer._producer) >= TOLD, "it was told enough")
    consume.step(FakeConsumer(world.kafka, "group", stage.topics), producer, stage, comparing=False)
    assert len(producer._producer) < TOLD


def never(_: object) -> Any:
    raise AssertionError
