"""New consumer groups with the services' own stages read every record from the beginning again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
from sqlalchemy import create_engine

from courant import consume, crypto
from courant.consume import Stage
from courant.kafka import clients, offsets
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.postgres.migrate import engine_url
from courant.topics import CHUNKS, INBOX, JOBS, PERSISTED, Channel, Lane
from job_runner import handle as runner
from job_runner.store import PostgresStore as RunnerStore
from saver import handle as saver
from saver.store import PostgresStore as SaverStore
from support.roles import JOB_RUNNER, SAVER
from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

ROWS = 1_200
ORDERS = [PERSISTED.topic(channel, lane) for channel in Channel for lane in Lane]
READ = (*INBOX.names(), JOBS.name, CHUNKS.name)


def test_reading_all_records_again_causes_no_row_no_send_and_no_order(stack: Stack) -> None:
    job_id = submitted(stack)
    stack.courant("send", "email", "amal@example.com")
    wait(lambda: over(stack, job_id), "the job is over")
    with clients.admin(stack.installation.cluster, "test") as client, stages(stack) as fresh:
        before, ends = figures(stack), ends_of(client, ORDERS)
        for stage in fresh:
            read_all(stack, client, stage)
        assert figures(stack) == before
        assert ends_of(client, ORDERS) == ends


def submitted(stack: Stack) -> str:
    lines = [f"again-{n}@example.com,Row {n}" for n in range(ROWS)]
    answer = httpx2.post(
        f"{stack.url}/v2/jobs",
        data={"template_id": stack.variables["COURANT_EMAIL_TEMPLATE_ID"]},
        files={"file": ("again.csv", "\n".join(["email address,name", *lines]).encode())},
        headers={"Authorization": f"ApiKey-v1 {stack.variables['COURANT_API_KEY']}"},
        timeout=ANSWER_SECONDS,
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["id"])


def over(stack: Stack, job_id: str) -> bool:
    """Return whether all the job's rows are stored and no notification waits."""
    sql = "SELECT count(*) FROM notifications WHERE job_id = %s"
    waiting = "SELECT count(*) FROM notifications WHERE state IN ('created', 'claimed')"
    return stack.sql(sql, job_id) == [(ROWS,)] and stack.sql(waiting) == [(0,)]


def figures(stack: Stack) -> Mapping[str, Any]:
    """Count the rows, events, sends and holds, which must not change."""
    tables = ("notifications", "jobs", "chunks", "wishes")
    return {
        **{table: stack.sql(f"SELECT count(*) FROM {table}") for table in tables},
        "saved": stack.sql("SELECT count(*) FROM events WHERE move IN ('saved', 'claimed')"),
        "booked": len(stack.sendings()),
        "holds": stack.sql("SELECT count(*) FROM holds WHERE stands"),
    }


def ends_of(client: clients.Admin, topics: Sequence[str]) -> Mapping[Any, int]:
    return offsets.ends(client, offsets.partitions(client, topics))


@contextmanager
def stages(stack: Stack) -> Iterator[list[Stage[Any]]]:
    """Yield the stages that read the topics READ, each in a new group that has no offsets."""
    engines = {
        role: create_engine(engine_url(stack.plan.database_url_of(role)))
        for role in (SAVER, JOB_RUNNER)
    }
    ring = crypto.key_ring(stack.plan.secrets["seal_keys"])
    every = [
        *runner.stages(RunnerStore(engines[JOB_RUNNER]), ring),
        *saver.stages(SaverStore(engines[SAVER], timedelta(seconds=6))),
    ]
    reading = [stage for stage in every if {*stage.topics} & {*READ}]
    yield [replace(stage, group=f"again.{stage.group}") for stage in reading]
    for engine in engines.values():
        engine.dispose()


def read_all(stack: Stack, client: clients.Admin, stage: Stage[Any]) -> None:
    """Read a stage's topics from the beginning to the end."""
    with (
        closing(KafkaConsumer(stack.installation.cluster, stage.group, stage.topics)) as consumer,
        closing(
            offsets.CommittedOffsets(stack.installation.cluster, "test", stage.group)
        ) as commits,
    ):
        producer = KafkaProducer(stack.installation.cluster, stage.group)

        def at_the_end() -> bool:
            parts = offsets.partitions(client, stage.topics)
            positions = commits.of(parts)
            return all(
                positions.get(part, 0) >= end for part, end in offsets.ends(client, parts).items()
            )

        def step() -> bool:
            for _ in range(5):
                consume.step(consumer, producer, stage, comparing=True)
            return at_the_end()

        wait(step, f"{stage.group} has read all")
