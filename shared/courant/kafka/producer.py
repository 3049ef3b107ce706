"""The producer of stages and timers, on librdkafka."""

from collections import Counter
from functools import cache
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from courant import metrics
from courant.errors import Unavailable
from courant.kafka.clients import Cluster, common
from courant.records import Outgoing
from courant.topics import SPARABLE

POLL_SECONDS = 0.25
FLUSH_SECONDS = 5.0
SPARED_MS = 10_000


class KafkaProducer:
    """A producer whose `flush` returns once every in-sync replica has all queued records.

    It does not wait for records of the topics in SPARABLE: another client of the process writes
    them if it can.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._failed: list[tuple[Outgoing, KafkaError]] = []
        self._open: Counter[str] = Counter()  # records without an acknowledgement, by topic
        self._producer = Producer(
            {
                **common(cluster, name),
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 2,
                "message.max.bytes": 4 * 1024 * 1024,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 131_072,
                # Queued records never expire: a known outcome must not be lost from memory because
                # the broker was away for a moment.
                "message.timeout.ms": 0,
            }
        )

    def produce(self, outgoing: Outgoing) -> None:
        if outgoing.topic in SPARABLE:
            spare(self._cluster, outgoing)
        else:
            self._put(outgoing)

    def _put(self, outgoing: Outgoing) -> None:
        def reported(error: KafkaError | None, _: Message) -> None:
            self._open[outgoing.topic] -= 1
            if error:
                self._failed.append((outgoing, error))

        while True:
            try:
                self._producer.produce(
                    self._cluster.topic(outgoing.topic),
                    key=outgoing.key,
                    value=outgoing.value,
                    headers=list(outgoing.headers),
                    on_delivery=reported,
                )
            except BufferError:
                self._producer.poll(POLL_SECONDS)
            else:
                self._open[outgoing.topic] += 1
                return

    def flush(self) -> None:
        left = self._producer.flush(FLUSH_SECONDS)
        failed, self._failed = self._failed, []
        for outgoing, error in failed:
            if error.fatal() or error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise KafkaException(error)
            self._put(outgoing)
        if failed or left:
            reason = failed[0][1].name() if failed else "no answer yet"
            names = ", ".join(sorted(name for name, number in self._open.items() if number > 0))
            count = left + len(failed)
            raise Unavailable(f"{count} records not acknowledged: {reason}; topics: {names}")


@cache
def sparing(cluster: Cluster) -> Producer:
    """Return the process's client for records that may be dropped."""
    return Producer(
        {
            **common(cluster, "stats"),
            "acks": 1,
            "message.timeout.ms": SPARED_MS,
            "queue.buffering.max.messages": 10_000,
        }
    )


def spare(cluster: Cluster, outgoing: Outgoing) -> None:
    """Write a record if Kafka takes it. Never waits and never raises; a loss is counted."""
    producer = sparing(cluster)

    def reported(error: KafkaError | None, _: Any) -> None:
        if error:
            metrics.SPARED.labels(outgoing.topic).inc()

    try:
        topic = cluster.topic(outgoing.topic)
        producer.produce(topic, key=outgoing.key, value=outgoing.value, on_delivery=reported)
    except (BufferError, KafkaException):
        metrics.SPARED.labels(outgoing.topic).inc()
    producer.poll(0)
