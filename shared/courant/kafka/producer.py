"""The producer of stages and timers, on librdkafka."""

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from courant.errors import Unavailable
from courant.kafka.clients import Cluster, common
from courant.records import Outgoing

POLL_SECONDS = 0.25
FLUSH_SECONDS = 5.0


class KafkaProducer:
    """A producer whose `flush` returns once every in-sync replica has all queued records."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._failed: list[tuple[Outgoing, KafkaError]] = []
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
        self._put(outgoing)

    def _put(self, outgoing: Outgoing) -> None:
        def reported(error: KafkaError | None, _: Message) -> None:
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
                return
            except BufferError:
                self._producer.poll(POLL_SECONDS)

    def flush(self) -> None:
        left = self._producer.flush(FLUSH_SECONDS)
        failed, self._failed = self._failed, []
        for outgoing, error in failed:
            if error.fatal() or error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise KafkaException(error)
            self._put(outgoing)
        if failed or left:
            reason = failed[0][1].name() if failed else "no answer yet"
            raise Unavailable(f"{left + len(failed)} records not acknowledged: {reason}")
