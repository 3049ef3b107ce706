"""The parts that all Kafka clients share: the cluster's names, options, admin client, errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, Message
from confluent_kafka.admin import AdminClient

from courant.errors import Unavailable

LOG_LEVEL_CRITICAL = 2
ANSWER_SECONDS = 10.0
PREFIX = "courant."
"""The prefix of topics and groups in a new installation."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Kafka cluster that Courant uses, and the prefixes of Courant's names there.

    `common` builds every client's options from it. Only the modules of this folder and Faust's apps
    add and remove prefixes. Everything else uses names without them (`inbox.email.priority`):
    Postgres, dead letters, metrics and logs.
    """

    bootstrap_servers: str
    topic_prefix: str = PREFIX
    group_prefix: str = PREFIX

    def topic(self, name: str) -> str:
        """Return the name of a topic on the cluster."""
        return f"{self.topic_prefix}{name}"

    def group(self, name: str) -> str:
        """Return the name of a consumer group, or of a client, on the cluster."""
        return f"{self.group_prefix}{name}"

    def name_of(self, topic: str) -> str:
        """Return Courant's own name for a topic of the cluster."""
        return topic.removeprefix(self.topic_prefix)


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin client, and the cluster that it is connected to."""

    client: AdminClient
    cluster: Cluster


def common(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the options of every client."""
    return {
        "bootstrap.servers": cluster.bootstrap_servers,
        "client.id": cluster.group(name),
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": 10_000,
        # While a broker is away, librdkafka would log it 40 times a second. Our own line
        # `dependency unavailable, retrying` comes once per retry.
        "log_level": LOG_LEVEL_CRITICAL,
        "logger": logging.getLogger("librdkafka"),
    }


@contextmanager
def admin(cluster: Cluster, name: str) -> Iterator[Admin]:
    """Yield an admin client, and close it at the end.

    Otherwise the garbage collector may collect it while the client's own thread runs Python. Then
    librdkafka aborts the process (confluent-kafka-python, pull request 2131).
    """
    with AdminClient(common(cluster, name)) as client:
        yield Admin(client, cluster)


def headers_of(message: Message) -> Iterator[tuple[str, bytes]]:
    """Yield a message's headers. A null value is empty."""
    headers: Any = message.headers() or ()
    for name, value in headers:
        yield name, value or b""


@contextmanager
def raises_unavailable() -> Iterator[None]:
    """Raise Unavailable instead of the client's own exception."""
    try:
        yield
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
