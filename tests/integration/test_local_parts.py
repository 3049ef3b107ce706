"""The real broker and the real database of the local stack: what a kill leaves, and a copy."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from courant.errors import Unavailable
from courant.kafka import clients, offsets
from courant.kafka.consumer import KafkaConsumer
from courant_local.kafka import Broker
from courant_local.postgres import Server
from support.waiting import WAIT_SECONDS, wait


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


def ask(
    server: Server, statement: str, connect_seconds: int = int(WAIT_SECONDS)
) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(server.url, connect_timeout=connect_seconds)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def unprefixed(broker: Broker) -> clients.Cluster:
    return clients.Cluster(broker.bootstrap, topic_prefix="", group_prefix="")


def make_topic(broker: Broker, name: str, partitions: int = 1) -> None:
    with clients.admin(unprefixed(broker), "test") as admin:
        admin.client.create_topics([NewTopic(name, partitions, replication_factor=1)])[name].result(
            10
        )


def produce(broker: Broker, topic: str, value: str, partition: int = 0) -> None:
    # With acks=all and so little time that only an acknowledgement ends the flush well.
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    producer.produce(topic, value, partition=partition)
    assert producer.flush(WAIT_SECONDS) == 0


def read(broker: Broker, topic: str, count: int) -> list[bytes | None]:
    settings = {
        "bootstrap.servers": broker.bootstrap,
        "group.id": topic,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    found: list[bytes | None] = []
    until = time.monotonic() + WAIT_SECONDS
    while len(found) < count and time.monotonic() < until:
        record = consumer.poll(0.2)
        if record is not None and not record.error():
            found.append(record.value())
    consumer.close()
    return found


def test_an_acknowledged_record_is_there_after_the_broker_was_killed(broker: Broker) -> None:
    make_topic(broker, "kept")
    produce(broker, "kept", "first")
    broker.kill()
    broker.restart()
    produce(broker, "kept", "second")
    assert read(broker, "kept", 2) == [b"first", b"second"]


def test_a_frozen_broker_acknowledges_once_it_is_thawed(broker: Broker) -> None:
    make_topic(broker, "frozen")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    broker.freeze()
    producer.produce("frozen", "waits")
    assert producer.flush(1) == 1
    broker.thaw()
    assert producer.flush(WAIT_SECONDS) == 0


@pytest.mark.parametrize("away", [Broker.kill, Broker.freeze])
def test_a_broker_that_does_not_answer_tells_no_end(
    broker: Broker, away: Callable[[Broker], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"away-{away.__name__}"
    make_topic(broker, topic)
    produce(broker, topic, "first")
    with clients.admin(unprefixed(broker), "test") as admin:
        parts = offsets.partitions(admin, [topic])
        assert list(offsets.ends(admin, parts).values()) == [1]
        assert list(offsets.starts(admin, parts).values()) == [0]
        monkeypatch.setattr(offsets, "ANSWER_SECONDS", 1.0)
        away(broker)
        try:
            for asked in (offsets.ends, offsets.starts):
                with pytest.raises(Unavailable):
                    asked(admin, parts)
        finally:
            broker.thaw()
            broker.restart()


def test_a_consumer_knows_where_each_partition_begins_whose_oldest_records_are_gone(
    broker: Broker,
) -> None:
    make_topic(broker, "shortened", partitions=3)
    for value in ("first", "second"):
        produce(broker, "shortened", value, partition=1)
    with clients.admin(unprefixed(broker), "test") as admin:
        parts = offsets.partitions(admin, ["shortened"])
        gone = admin.client.delete_records([TopicPartition("shortened", 1, 1)])
        for future in gone.values():
            future.result(10)
    with closing(KafkaConsumer(unprefixed(broker), "group", ["shortened"])) as reader:
        found = {each.number: start for each, start in reader.starts(parts).items()}
    assert found == {0: 0, 1: 1, 2: 0}


def test_a_topic_is_not_made_by_accident(broker: Broker) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.timeout.ms": 1500})
    errors: list[object] = []
    producer.produce("by-accident", "x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(WAIT_SECONDS)
    assert errors
    assert errors[0] is not None
    with clients.admin(unprefixed(broker), "test") as admin:
        assert "by-accident" not in admin.client.list_topics(timeout=WAIT_SECONDS).topics


def test_a_committed_row_is_there_after_the_server_was_killed(server: Server) -> None:
    ask(server, "CREATE TABLE kept (n int)")
    ask(server, "INSERT INTO kept VALUES (1)")
    # A backend that does not see the end yet holds the old memory: the start has to wait for it.
    with closing(psycopg2.connect(server.url)) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        server.kill()

        def end_once_it_is_in_the_way() -> None:
            wait(lambda: "pre-existing shared memory block" in server.child.log.read_text())
            os.kill(backend, signal.SIGCONT)

        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(end_once_it_is_in_the_way)
            server.restart()
            ending.result()
    assert ask(server, "SELECT n FROM kept") == [(1,)]


def test_a_copy_put_back_lacks_what_came_after_it(server: Server) -> None:
    ask(server, "CREATE TABLE rolled (n int)")
    ask(server, "INSERT INTO rolled VALUES (1)")
    copy = server.folder / "copy"
    server.copy_to(copy)
    ask(server, "INSERT INTO rolled VALUES (2)")
    for _ in range(2):  # the copy can be used more than once
        server.put_back(copy)
        assert ask(server, "SELECT n FROM rolled") == [(1,)]
        ask(server, "INSERT INTO rolled VALUES (3)")


def test_a_frozen_server_answers_nobody_until_it_is_thawed(server: Server) -> None:
    server.freeze()
    with pytest.raises(psycopg2.OperationalError, match="timeout"):
        ask(server, "SELECT 1", connect_seconds=2)
    server.thaw()
    assert ask(server, "SELECT 1") == [(1,)]


def test_the_services_role_is_an_ordinary_one_that_owns_its_database(server: Server) -> None:
    assert ask(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    assert ask(server, "SELECT 1 FROM pg_control_system()") == [(1,)]
    ask(server, "CREATE SCHEMA own")
