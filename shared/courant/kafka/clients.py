"""What every Kafka client has in common: options, an admin client, errors that mean unavailable."""

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
"""What a new installation puts before the names of its topics and groups."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Kafka cluster that Courant uses, and how Courant's names are prefixed there.

    Every client is built from it, in `common`. Names without a prefix (`inbox.email.priority`) are
    used everywhere else: in Postgres, dead letters, metrics and logs. Only the modules of this
    folder, and Faust's apps, add the prefix and take it off.
    """

    bootstrap_servers: str
    topic_prefix: str = PREFIX
    group_prefix: str = PREFIX

    def topic(self, name: str) -> str:
        """Return what a topic is called on the cluster."""
        return f"{self.topic_prefix}{name}"

    def group(self, name: str) -> str:
        """Return what a consumer group, or a client, is called on the cluster."""
        return f"{self.group_prefix}{name}"

    def name_of(self, topic: str) -> str:
        """Return Courant's name for a topic of the cluster."""
        return topic.removeprefix(self.topic_prefix)


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin client, and the cluster whose prefixes its topics carry."""

    client: AdminClient
    cluster: Cluster


def common(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the options that every client has."""
    return {
        "bootstrap.servers": cluster.bootstrap_servers,
        "client.id": cluster.group(name),
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": 10_000,
        # While a broker is away it tells so forty times a second; `bad weather` tells it once.
        "log_level": LOG_LEVEL_CRITICAL,
        "logger": logging.getLogger("librdkafka"),
    }


@contextmanager
def admin(cluster: Cluster, name: str) -> Iterator[Admin]:
    """Give an admin client, and end it here.

    One that is left to the garbage collector may be collected while its own thread runs Python, and
    librdkafka aborts the process then (confluent-kafka-python, pull request 2131).
    """
    with AdminClient(common(cluster, name)) as client:
        yield Admin(client, cluster)


def headers_of(message: Message) -> Iterator[tuple[str, bytes]]:
    """Give a message's headers; what was null is empty."""
    headers: Any = message.headers() or ()
    for name, value in headers:
        yield name, value or b""


@contextmanager
def raises_unavailable() -> Iterator[None]:
    """Raise Unavailable in place of the client's own exception."""
    try:
        yield
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
