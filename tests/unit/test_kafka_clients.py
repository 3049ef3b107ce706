"""Threads and memory that Kafka clients use while no broker answers.

An admin client is closed by the code that made it, because one that the garbage collector closes
can abort the process. A producer keeps the broker's reports in memory until it is polled.
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
REPORTS = 3


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a broker that accepts connections and never answers."""
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
    """Call `ask`, which fails each time, and return how many threads the calls left behind."""
    before = psutil.Process().num_threads()
    for _ in range(TIMES):
        with pytest.raises(Unavailable):
            ask()
    return psutil.Process().num_threads() - before


def test_a_consumer_closes_the_admin_client_that_it_uses_before_it_joins(silent: str) -> None:
    with closing(KafkaConsumer(Cluster(silent), "test", ["test"])) as consumer, uncollected():
        assert threads_left_by(lambda: consumer.poll(1)) < TIMES


def test_a_stage_without_work_polls_its_producer() -> None:
    world = World()
    nobody = Cluster("127.0.0.1:1")
    producer = KafkaProducer(nobody, "test")
    stage = consume.Stage("group", ("inbox.email.normal",), never, never)
    wait(lambda: len(producer._producer) >= REPORTS, "the client has enough reports")
    consume.step(FakeConsumer(world.kafka, "group", stage.topics), producer, stage, comparing=False)
    assert len(producer._producer) < REPORTS


def never(_: object) -> Any:
    raise AssertionError
