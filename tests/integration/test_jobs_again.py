"""The whole log read again from its beginning, by the services' own stages in new groups."""

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


def test_it_makes_no_second_row_no_second_sending_and_no_orders(stack: Stack) -> None:
    job_id = submitted(stack)
    stack.courant("send", "email", "amal@example.com")
    wait(lambda: over(stack, job_id), "the job is over")
    with clients.admin(stack.installation.cluster, "test") as client, stages(stack) as found:
        before, ends = seen(stack), ends_of(client, ORDERS)
        for stage in found:
            read_all(stack, client, stage)
        assert seen(stack) == before
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
    """Tell whether all is sent, and nothing at all waits."""
    sql = "SELECT count(*) FROM notifications WHERE job_id = %s"
    waiting = "SELECT count(*) FROM notifications WHERE state IN ('created', 'claimed')"
    return stack.sql(sql, job_id) == [(ROWS,)] and stack.sql(waiting) == [(0,)]


def seen(stack: Stack) -> Mapping[str, Any]:
    """Count what must stay as it is."""
    tables = ("notifications", "jobs", "chunks", "wishes")
    return {
        **{each: stack.sql(f"SELECT count(*) FROM {each}") for each in tables},
        "saved": stack.sql("SELECT count(*) FROM events WHERE move IN ('saved', 'claimed')"),
        "booked": len(stack.sendings()),
        "holds": stack.sql("SELECT count(*) FROM holds WHERE stands"),
    }


def ends_of(client: clients.Admin, topics: Sequence[str]) -> Mapping[Any, int]:
    return offsets.ends(client, offsets.partitions(client, topics))


@contextmanager
def stages(stack: Stack) -> Iterator[list[Stage[Any]]]:
    """Give the stages that read these topics, as members of groups that have read nothing."""
    engines = {
        role: create_engine(engine_url(stack.plan.database_url_of(role)))
        for role in (SAVER, JOB_RUNNER)
    }
    ring = crypto.key_ring(stack.plan.secrets["seal_keys"])
    found = [
        *runner.stages(RunnerStore(engines[JOB_RUNNER]), ring),
        *saver.stages(SaverStore(engines[SAVER], timedelta(seconds=6))),
    ]
    yield [replace(each, group=f"again.{each.group}") for each in found if {*each.topics} & {*READ}]
    for engine in engines.values():
        engine.dispose()


def read_all(stack: Stack, client: clients.Admin, stage: Stage[Any]) -> None:
    """Read its topics from the beginning to the end."""
    with (
        closing(KafkaConsumer(stack.installation.cluster, stage.group, stage.topics)) as consumer,
        closing(
            offsets.CommittedOffsets(stack.installation.cluster, "test", stage.group)
        ) as commits,
    ):
        producer = KafkaProducer(stack.installation.cluster, stage.group)

        def at_the_end() -> bool:
            parts = offsets.partitions(client, stage.topics)
            places = commits.of(parts)
            return all(
                places.get(each, 0) >= end for each, end in offsets.ends(client, parts).items()
            )

        def step() -> bool:
            for _ in range(5):
                consume.step(consumer, producer, stage, comparing=True)
            return at_the_end()

        wait(step, f"{stage.group} has read all")
