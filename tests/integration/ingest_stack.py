"""Starts a broker, a PostgreSQL, and ingest and saver as processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg2

from courant.directory.entries import AnyEntry, encode
from courant.kafka import clients, topics_admin
from courant.kafka.clients import Cluster
from courant.kafka.producer import KafkaProducer
from courant.postgres import migrate
from courant.records import Outgoing
from courant.topics import DIRECTORY
from courant_local import ports
from courant_local.kafka import Broker
from courant_local.postgres import Server
from support.ingest.world import HASH_KEY, SEAL_KEYS, TOPIC_ARN, entries
from support.waiting import ANSWER_SECONDS, wait

STOP_SECONDS = 60.0
LOG_SHOWN = 5_000  # characters


@dataclass
class Stack:
    """The addresses and processes of the running parts."""

    broker: Broker
    postgres: Server
    base: str  # The API's base URL.
    health: str  # The base URL of ingest's /readyz and /metrics.
    ingest: subprocess.Popen[bytes]
    log: Path  # The log file of ingest.

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.broker.bootstrap)

    def publish(self, *changed: AnyEntry) -> None:
        """Write entries to the directory's topic."""
        producer = KafkaProducer(self.cluster, "tests")
        for entry in changed:
            producer.produce(Outgoing(DIRECTORY.name, entry.key.encode(), encode(entry)))
        producer.flush()

    def in_flight(self) -> float:
        """Return how many requests of clients ingest is answering."""
        for line in httpx2.get(f"{self.health}/metrics", timeout=ANSWER_SECONDS).text.splitlines():
            if line.startswith("courant_requests_in_flight "):
                return float(line.split()[1])
        raise AssertionError("no such metric")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the database, and return its rows."""
        connection = psycopg2.connect(self.postgres.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=ANSWER_SECONDS).status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def process(module: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service until the block ends."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", module], env={**os.environ, **env}, stdout=out, stderr=out
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
            # Pytest shows the log with a failed test.
            print(f"--- {module}", log.read_text()[-LOG_SHOWN:], sep="\n")  # noqa: T201  # as above


@contextmanager
def stack(**settings: str) -> Iterator[Stack]:
    """Start all the parts, and stop them when the block ends. `settings` are ingest's own."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        broker = held.enter_context(Broker())
        postgres = held.enter_context(Server())
        with clients.admin(Cluster(broker.bootstrap), "test") as client:
            topics_admin.apply(client, replication=1)
        migrate.upgrade(postgres.url)
        port, health_port = ports.free(), ports.free()
        env = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "DATABASE_URL": postgres.url_of("courant_ingest"),
            "COURANT_ENVIRONMENT": "local",
            "COURANT_SEAL_KEYS": SEAL_KEYS,
            "COURANT_HASH_KEY": HASH_KEY,
            "COURANT_LEASE_SECONDS": "6",
            "INGEST_PORT": str(port),
            "INGEST_HEALTH_PORT": str(health_port),
            "SAVER_HEALTH_PORT": str(ports.free()),
            "RECEIPTS_TOPIC_ARNS": TOPIC_ARN,
            **settings,
        }
        saving = {**env, "DATABASE_URL": postgres.url_of("courant_saver")}
        held.enter_context(process("saver", saving, folder / "saver.log"))
        log = folder / "ingest.log"
        ingest = held.enter_context(process("ingest", env, log))
        base, health = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{health_port}"
        started = Stack(broker, postgres, base, health, ingest, log)
        started.publish(*entries())
        wait(lambda: answers(f"{started.health}/readyz"), "ingest is ready")
        yield started
