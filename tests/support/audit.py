"""A real PostgreSQL and Kafka, the savers' and job-runner's stages, and the audit on them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Engine, text

from courant import clock, consume, ids
from courant.contracts import Notification
from courant.kafka import clients, offsets, topics_admin
from courant.kafka.clients import Cluster
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.postgres.database import RECOGNISE
from courant.records import Outgoing
from courant.testing import builders
from courant_local.kafka import Broker
from job_runner import handle as job_handle
from job_runner.store import PostgresStore as JobStore
from recovery.audit.log import AuditLog
from recovery.audit.rounds import Audit
from recovery.audit.store import AuditStore
from recovery.audit.store import engine as audit_engine
from saver import handle
from saver.store import PostgresStore
from support.job_runner import RING
from support.recovery import TABLES
from support.roles import acting
from support.saver import PostgresTwin
from support.waiting import WAIT_SECONDS

FEW = {"inbox": 2, "delivery": 2, "receipts": 2, "jobs": 2, "persisted": 1, "chunks": 1}
STATES = "SELECT id, state, attempt FROM notifications ORDER BY id"


def new(**other: Any) -> Notification:
    """Build a notification that is accepted now."""
    now = clock.now()
    fields = {"id": ids.new(now), "accepted_at": now, **other}
    return msgspec.structs.replace(builders.notification(1), **fields)


class Site:
    """An installation of its own on the shared broker, by its prefix."""

    def __init__(self, engine: Engine, broker: Broker, prefix: str, parts: ExitStack) -> None:
        self.engine, self._parts = engine, parts
        self.cluster = Cluster(broker.bootstrap, f"{prefix}.", f"{prefix}.")
        self._admin = parts.enter_context(clients.admin(self.cluster, "test"))
        topics_admin.apply(self._admin, 1, FEW, beside=True)
        for table in (*TABLES, "refolds"):
            self.ask(f"DELETE FROM {table}")
        self.ask(RECOGNISE)
        self.producer = KafkaProducer(self.cluster, "test")
        saver = PostgresTwin(engine).store
        assert isinstance(saver, PostgresStore)
        jobs, *_ = job_handle.stages(JobStore(acting(engine, "courant_job_runner")), RING)
        self.stages: list[consume.Stage[Any]] = [*handle.stages(saver), jobs]
        self._consumers: dict[str, KafkaConsumer] = {}
        self.naps: list[float] = []

    def ask(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def write(self, *records: Outgoing) -> None:
        for each in records:
            self.producer.produce(each)
        self.producer.flush()

    def accept(self, *notifications: Notification) -> list[UUID]:
        self.write(*map(builders.outgoing, notifications))
        return [each.id for each in notifications]

    def fold(self, *only: str) -> None:
        """Run the stages, or those of these topics, until all is folded and committed."""
        for stage in self.stages:
            if only and not {*only} & {*stage.topics}:
                continue
            if stage.group not in self._consumers:
                self._consumers[stage.group] = self._parts.enter_context(
                    closing(KafkaConsumer(self.cluster, stage.group, stage.topics))
                )
            until = time.monotonic() + WAIT_SECONDS
            consume.run(
                self._consumers[stage.group],
                KafkaProducer(self.cluster, stage.group),
                stage,
                self._is_done(stage, until),
                comparing=lambda: True,
            )
            assert time.monotonic() < until, f"{stage.group} does not come to the end"

    def _is_done(self, stage: consume.Stage[Any], until: float) -> Callable[[], bool]:
        def done() -> bool:
            ends = offsets.ends(self._admin, offsets.partitions(self._admin, stage.topics))
            rows = self.ask("SELECT topic_id, partition, next FROM positions")
            stand = {(topic_id, number): position for topic_id, number, position in rows}
            folded = all(stand.get((e.topic_id, e.number), 0) >= end for e, end in ends.items())
            return folded or time.monotonic() > until

        return done

    def mark(self) -> None:
        """Take a mark of the inbox, as recovery does each second."""
        at = "SELECT clock_timestamp()"
        [(now,)] = self.ask(at)
        for topic in {topic for stage in self.stages for topic in stage.topics}:
            partitions = offsets.partitions(self._admin, [topic])
            ends = offsets.ends(self._admin, partitions)
            self.ask(
                "INSERT INTO marks VALUES (:at, :id, :family, :topic, :ends)",
                at=now,
                id=partitions[0].topic_id,
                family=topic.partition(".")[0],
                topic=topic,
                ends=[ends[each] for each in sorted(partitions, key=lambda each: each.number)],
            )

    @contextmanager
    def auditing(self) -> Iterator[Audit]:
        """Yield the audit of one process, without its rests."""
        url = self.engine.url.set(username="courant_recovery").render_as_string(False)
        engine = audit_engine(url)
        store, log = AuditStore(engine), AuditLog(self.cluster)
        try:
            yield Audit(store, log, self.naps.append)
        finally:
            store.close()
            log.close()
            engine.dispose()

    def states(self) -> list[Any]:
        return self.ask(STATES)

    def delete(self, some: Sequence[UUID]) -> None:
        for id in some:
            self.ask("DELETE FROM notifications WHERE id = :id", id=id)
