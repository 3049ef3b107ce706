"""Recovery's own processes on a real broker and a real PostgreSQL: they lead, sweep, and die."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import faust
import httpx2
import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, text

from courant import ids, topics
from courant.contracts import Stat
from courant.crypto import keyed_hash
from courant.errors import Unavailable
from courant.kafka.clients import Cluster, admin
from courant.kafka.offsets import ends, partitions
from courant.kafka.producer import KafkaProducer
from courant.kafka.topics_admin import apply
from courant.postgres import migrate
from courant.postgres.days import DAILY
from courant.records import Outgoing
from courant.serve import Stop
from courant.testing.builders import DELIVERY, PERSISTED
from courant.topics import group
from courant_local import ports
from courant_local.kafka import Broker
from courant_local.postgres import Server
from recovery import rules
from recovery.faust import figures
from recovery.offsets import GroupOffsets
from support.recovery import make_day
from support.waiting import ANSWER_SECONDS, BUSY_SECONDS, WAIT_SECONDS, wait

LED_AGAIN_SECONDS = 30.0  # after the leader was killed
HASH_KEY = hashlib.sha256(b"a test's").hexdigest()


@dataclass
class Stack:
    """A broker, a database, and the heartbeats that have arrived."""

    broker: Broker
    cluster: Cluster
    url: str
    engine: Engine
    log: GroupOffsets
    beats: list[tuple[str, bytes, str]] = field(default_factory=list)
    receipts: str = ""

    def ask(self, sql: str, **values: object) -> list[tuple[object, ...]]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def row(self, number: int) -> UUID:
        """Insert a row that is due."""
        id = UUID(int=ids.first_of(ids.day_at(datetime.now(UTC))).int + number)
        columns = """id, service_id, key_id, key_type, template_id, template_version, channel, lane,
            recipient_hash, sealed, accepted_at, issued_at, not_before"""
        self.ask(
            f"""INSERT INTO notifications ({columns}) VALUES (:id, :id, :id, 'normal', :id, 1,
            'email', 'normal', '', '', now(), now() - interval '2 s', now() - interval '1 s')""",
            id=id,
        )
        return id

    def orders(self) -> int:
        with admin(self.cluster, "test") as client:
            return sum(ends(client, partitions(client, [PERSISTED])).values())


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        Broker() as broker,
        Server() as server,
        closing(GroupOffsets(cluster := prefixed(broker), "test")) as log,
    ):
        with admin(cluster, "test") as client:
            apply(client, replication=1)
        migrate.upgrade(server.url)
        engine = create_engine(migrate.engine_url(server.url))
        stack = Stack(broker, cluster, server.url_of("courant_recovery"), engine, log)
        for table in DAILY:
            make_day(engine, table, ids.day_at(datetime.now(UTC)))
        wait(lambda: answers_all(log))
        with listening(stack):
            yield stack
        engine.dispose()


def prefixed(broker: Broker) -> Cluster:
    """Return a cluster with two prefixes that differ from each default."""
    return Cluster(broker.bootstrap, "topics.of-", "groups.of-")


def answers_all(log: GroupOffsets) -> bool:
    try:
        return bool(log.ends(rules.MARKED) and log.committed(rules.ORDERS))
    except Unavailable:
        return False  # the topics, and the coordinator's own, are too new


@contextmanager
def listening(stack: Stack) -> Iterator[None]:
    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stack.beats.append((self.path, body, self.headers["X-Courant-Signature"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((ports.HOST, 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stack.receipts = f"http://{ports.HOST}:{server.server_port}/receipts"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Process:
    """A recovery process."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self.port = ports.free()
        env = {
            "KAFKA_BOOTSTRAP_SERVERS": stack.broker.bootstrap,
            "COURANT_TOPIC_PREFIX": stack.cluster.topic_prefix,
            "COURANT_GROUP_PREFIX": stack.cluster.group_prefix,
            "DATABASE_URL": stack.url,
            "COURANT_HASH_KEY": HASH_KEY,
            "PUBLIC_RECEIPTS_URL": stack.receipts,
            "COURANT_LEASE_SECONDS": "1",
            "COURANT_MARGIN_SECONDS": "0.5",
            "RECOVERY_HEALTH_PORT": str(self.port),
        }
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recovery"],
                env={**os.environ, **env},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str) -> httpx2.Response | None:
        try:
            return httpx2.get(f"http://{ports.HOST}:{self.port}{path}", timeout=ANSWER_SECONDS)
        except httpx2.HTTPError:
            return None

    def metric(self, name: str) -> float:
        answer = self.ask("/metrics")
        lines = answer.text.splitlines() if answer else []
        found = [float(line.split()[-1]) for line in lines if line.startswith(name)]
        return sum(found)

    def leads(self) -> bool:
        return self.metric("courant_recovery_leads") == 1

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_group_without_commits_has_read_nothing(stack: Stack) -> None:
    positions = stack.log.committed(rules.ORDERS)
    assert {partition.topic for partition in positions} == rules.ORDERS.keys()
    assert set(positions.values()) == {0}
    name = rules.ORDERS[PERSISTED]
    consumer = Consumer(
        {"bootstrap.servers": stack.broker.bootstrap, "group.id": stack.cluster.group(name)}
    )
    spot = TopicPartition(stack.cluster.topic(PERSISTED), 2, 7)
    consumer.commit(offsets=[spot], asynchronous=False)
    consumer.close()
    committed = {
        each.number: at
        for each, at in stack.log.committed(rules.ORDERS).items()
        if each.topic == PERSISTED
    }
    assert committed == dict.fromkeys(range(24), 0) | {2: 7}


def test_it_marks_lifts_the_hold_sweeps_and_another_leads_after_a_kill(
    stack: Stack, tmp_path: Path
) -> None:
    with ExitStack() as ending:
        both = [Process(stack, tmp_path / f"{number}.log") for number in (1, 2)]
        for process in both:
            ending.callback(process.end)
        wait(lambda: any(process.leads() for process in both))
        # The server was never seen: the hold is raised, and lifted after lease and margin.
        wait(lambda: stack.ask("SELECT stands FROM holds") == [(False,), (False,)])
        [(marked,)] = stack.ask("SELECT count(DISTINCT topic) FROM marks")
        assert marked == len(rules.MARKED)
        stack.row(1)
        wait(lambda: stack.orders() == 1)

        wait(
            lambda: all(
                (answer := process.ask("/readyz")) and answer.is_success for process in both
            )
        )
        wait(lambda: [process.leads() for process in both].count(True) == 1)
        leader, other = sorted(both, key=Process.leads, reverse=True)
        leader.process.kill()
        stack.row(2)
        wait(lambda: stack.orders() == 2, "the other leads", LED_AGAIN_SECONDS + BUSY_SECONDS)
        assert other.leads()

        other.process.terminate()
        assert other.process.wait(WAIT_SECONDS) == 0


def test_heartbeats_come_signed_through_the_public_door(stack: Stack, tmp_path: Path) -> None:
    before = len(stack.beats)
    with ExitStack() as ending:
        ending.callback(Process(stack, tmp_path / "log").end)
        wait(lambda: len(stack.beats) > before)
    path, body, signature = stack.beats[-1]
    assert path == "/receipts/heartbeat"
    assert signature == keyed_hash(HASH_KEY.encode(), b"heartbeat", body).hex()
    at = datetime.fromisoformat(json.loads(body)["at"])
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


def test_the_work_of_a_stage_is_shown_for_the_last_minute(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 4.0  # a short minute
    monkeypatch.setattr(figures, "MINUTE", timedelta(seconds=seconds))
    monkeypatch.setattr(figures, "WINDOW", faust.TumblingWindow(seconds, expires=60.0))
    monkeypatch.setattr(figures, "SHOW_SECONDS", 0.5)
    producer, stop = KafkaProducer(stack.cluster, "test"), Stop()
    thread = threading.Thread(target=figures.run, args=(stack.cluster, 1, stop))
    thread.start()

    written = 0

    def shown() -> float:
        nonlocal written
        written += 10
        stat = Stat(stage="sent", lane="bulk", count=10, at=datetime.now(UTC))
        for value in (stat.encode(), b"{"):  # an unreadable record stops nothing
            producer.produce(Outgoing("stats", b"sent", value))
        producer.flush()
        labels = {"stage": "sent", "lane": "bulk"}
        return REGISTRY.get_sample_value("courant_stage_minute_notifications", labels) or 0.0

    try:
        wait(lambda: shown() > 0)
        # What went on for minutes is shown for one of them.
        wait(lambda: 0 < shown() < written / 4)
    finally:
        stop.set()
        thread.join()


def test_commits_are_read_again_after_the_broker_was_away(stack: Stack) -> None:
    before = stack.log.committed(rules.ORDERS)

    def is_unchanged() -> bool:
        try:
            return stack.log.committed(rules.ORDERS) == before
        except Unavailable:
            return False

    over = threading.Event()

    def ask_on() -> None:
        # A broker that stops, or has just started, answers that it coordinates no group.
        while not over.wait(0.01):
            is_unchanged()

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        for end in (stack.broker.stop, stack.broker.kill):
            end()
            stack.broker.start()
            stack.broker.wait_ready()
    finally:
        over.set()
        asking.join()
    wait(is_unchanged)


def test_no_client_is_kept_of_a_broker_that_is_away(stack: Stack) -> None:
    with closing(GroupOffsets(stack.cluster, "test")) as log:
        before = psutil.Process().num_threads()
        log.committed(rules.ORDERS)
        assert psutil.Process().num_threads() > before
        stack.broker.kill()
        try:
            with pytest.raises(Unavailable):
                log.committed(rules.ORDERS)
            wait(lambda: psutil.Process().num_threads() <= before)
        finally:
            stack.broker.start()
            stack.broker.wait_ready()
        wait(lambda: answers_all(log))


def test_every_topic_and_group_carries_its_prefix(stack: Stack, tmp_path: Path) -> None:
    of_faust = {
        "groups.of-recovery.sweeps-__assignor-__leader",
        "groups.of-recovery.figures-__assignor-__leader",
        "groups.of-recovery.figures-minutes-changelog",
    }

    def names() -> tuple[set[str], set[str]]:
        with admin(stack.cluster, "test") as asked:
            listed = asked.client.list_topics(timeout=ANSWER_SECONDS).topics.keys()
            groups = asked.client.list_consumer_groups().result().valid
        return {each for each in listed if not each.startswith("__")}, {
            each.group_id for each in groups
        }

    with ExitStack() as ending:
        ending.callback(Process(stack, tmp_path / "log").end)
        wait(lambda: of_faust <= names()[0] and len(names()[1]) > 1)
        topics_, groups = names()
    assert topics_ - of_faust == {f"topics.of-{each.name}" for each in topics.declared()}
    assert all(each.startswith("groups.of-") for each in groups), groups


def test_groups_have_the_names_that_the_deliverer_uses() -> None:
    assert rules.ORDERS[PERSISTED] == "deliverer.persisted.email.normal"
    assert group("saver", topics.DELIVERY) == f"saver.{DELIVERY}"
