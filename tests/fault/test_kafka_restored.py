"""Kafka loses records that Postgres has folded; no operator does anything else."""

import json
import subprocess
import time
from pathlib import Path

from courant.kafka import clients, offsets
from courant.topics import DELIVERY
from courant_local import control
from fault.harness import Harness, merged
from support.waiting import wait

SENDS, RATE = 60, 20.0
LOST = "the log lost records that were folded"


def test_a_kafka_restored_from_an_older_copy_loses_and_repeats_nothing(harness: Harness) -> None:
    with harness.load(RATE, 5) as before:
        pass
    settled(harness, len(before.ids))
    copy = harness.stack.plan.home / "kafka-1" / "copy"
    with harness.frozen("kafka-1"):
        copy_files(data(harness), copy)
    harness.ready()
    with harness.load(RATE, SENDS / RATE, first=1_000) as between:
        pass
    settled(harness, len(before.ids) + len(between.ids))
    restore(harness, copy)
    with harness.load(RATE, SENDS / RATE, first=2_000) as after:
        pass
    findings = harness.check(merged(before, between, after))
    assert findings.wrong() == {}
    assert len(after.ids) > 0
    assert LOST in messages(harness, "saver-1")
    # The hold was raised, and recovery has lifted it.
    assert harness.stack.sql("SELECT stands FROM holds WHERE scope = 'rebuild'") == [(False,)]


def test_a_topic_recreated_under_load_loses_and_repeats_nothing(harness: Harness) -> None:
    cluster = harness.stack.installation.cluster
    with harness.load(RATE, 30) as result:
        time.sleep(5)
        harness.note_open_calls()
        with clients.admin(cluster, "test") as admin:
            [gone] = admin.client.delete_topics([cluster.topic(DELIVERY.name)]).values()
            gone.result()
        time.sleep(1)
        harness.stack.courant("topics", "apply")
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert LOST in messages(harness, "saver-1")
    assert harness.stack.sql("SELECT stands FROM holds WHERE scope = 'rebuild'") == [(False,)]
    with clients.admin(cluster, "test") as admin:
        [id] = offsets.topic_ids(admin, [DELIVERY.name]).values()
    folded = harness.stack.sql(
        "SELECT topic_id::text, sum(next)::int FROM positions WHERE topic = 'delivery' GROUP BY 1"
    )
    assert dict(folded)[str(id)] > 0, "the new topic is folded under its own id"
    assert len(folded) == 2


def ready_parts(harness: Harness) -> set[str]:
    parts = control.status(harness.stack.folder)
    return {part["name"] for part in parts if part["state"] == "ready"}


def settled(harness: Harness, accepted: int) -> None:
    """Wait until every notification is delivered."""
    delivered = "SELECT count(*) FROM notifications WHERE state = 'delivered'"
    wait(lambda: harness.stack.sql(delivered)[0][0] >= accepted, "all are delivered", 120)


def data(harness: Harness) -> Path:
    return Path(harness.stack.plan.home / "kafka-1" / "data")


def restore(harness: Harness, copy: Path) -> None:
    """Replace the broker's files by `copy`, and let the supervisor restart it."""
    files = data(harness)
    # The broker still runs here. The supervisor may restart it at any time after the kill, and must
    # then find the copy.
    files.rename(files.with_name("before"))
    copy.rename(files)
    harness.kill("kafka")
    wait(lambda: "kafka-1" not in ready_parts(harness), "the broker is down")
    harness.ready()


def copy_files(source: Path, target: Path) -> None:
    """Copy a folder. Kafka's index files are sparse: 10 MB each, and nearly empty."""
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)


def messages(harness: Harness, name: str) -> set[str]:
    lines = harness.stack.plan.log(name).read_text().splitlines()
    return {json.loads(line)["message"] for line in lines if line.startswith("{")}
