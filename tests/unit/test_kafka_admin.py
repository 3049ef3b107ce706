"""An admin client ends where it was made: one that the collector ends can abort the process."""

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psutil
import pytest

from courant import kafka
from courant.errors import Unavailable

TIMES = 20


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of a broker that takes connections and says nothing."""
    monkeypatch.setattr(kafka, "ANSWER_SECONDS", 0.02)
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
    with closing(kafka.KafkaConsumer(silent, "test", ["test"])) as consumer, uncollected():
        assert threads_left_by(lambda: consumer.poll(1)) < TIMES
