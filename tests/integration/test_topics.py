"""The cluster's topics: created, found under their prefix, never created beside others."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from courant.kafka import clients, offsets
from courant.kafka.clients import Cluster
from courant.kafka.consumer import KafkaConsumer
from courant.kafka.producer import KafkaProducer
from courant.kafka.topics_admin import (
    FewerPartitions,
    FewerReplicas,
    OtherPrefix,
    apply,
    diff,
    refuse_fewer,
)
from courant.records import Outgoing
from courant.topics import DELIVERY, INBOX, declared
from courant_cli.installation import Installation
from courant_local.kafka import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Start a broker that has no topics yet."""
    with Broker() as started:
        yield started


def topics_of(cluster: Cluster) -> set[str]:
    with clients.admin(cluster, "test") as admin:
        listed = admin.client.list_topics(timeout=30).topics.keys()
    return {each for each in listed if not each.startswith("__")}


def environment(broker: Broker, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "COURANT_HOME": str(home),
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "COURANT_REPLICATION": "1",
        # Nobody listens there: the topics come first.
        "DATABASE_URL": "postgresql://courant:secret@127.0.0.1:1/courant",
    }


def run(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], env=env, capture_output=True, text=True, check=False
    )


def put_there(cluster: Cluster, beside: bool = False) -> None:
    with clients.admin(cluster, "test") as admin:
        apply(admin, 1, beside=beside)


@pytest.mark.parametrize(("there", "set_"), [("", "courant."), ("courant.", ""), ("a.", "b.")])
def test_topics_are_not_made_beside_those_of_another_prefix_unless_that_is_meant(
    broker: Broker, there: str, set_: str
) -> None:
    old, new = Cluster(broker.bootstrap, there), Cluster(broker.bootstrap, set_)
    put_there(old)
    before = topics_of(old)
    assert before == {f"{there}{each.name}" for each in declared()}
    with clients.admin(new, "test") as admin:
        for work in (diff, apply):
            with pytest.raises(OtherPrefix, match=f"set COURANT_TOPIC_PREFIX={there}\\. "):
                work(admin, 1)
    assert topics_of(old) == before
    put_there(new, beside=True)
    assert len(topics_of(old)) == 2 * len(before)
    put_there(old)  # each is an installation now that finds its own
    put_there(new)


def test_the_commands_stop_and_name_the_setting(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_there(Cluster(broker.bootstrap, ""))
    before = topics_of(Cluster(broker.bootstrap))
    env = environment(broker, tmp_path)
    for words in (["courant_local.prepare"], ["courant_cli.main", "topics", "apply"]):
        ended = run(*words, env=env)
        assert ended.returncode == 1
        assert "set COURANT_TOPIC_PREFIX=. To start another" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert topics_of(Cluster(broker.bootstrap)) == before
    for name in ("COURANT_HOME", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.setenv(name, env[name])
    monkeypatch.setenv("COURANT_TOPIC_PREFIX", "")
    with Installation().admin() as admin:
        assert diff(admin, 1) == []


def test_partitions_are_added_to_a_running_cluster_and_fewer_are_refused(broker: Broker) -> None:
    cluster = Cluster(broker.bootstrap)

    def counts() -> dict[str, int]:
        with clients.admin(cluster, "test") as admin:
            found = offsets.partitions(admin, [each.name for each in declared()])
        return Counter(each.topic for each in found)

    with clients.admin(cluster, "test") as admin:
        apply(admin, 1, {"inbox": 2, "delivery": 3})
        before = counts()
        assert {before[name] for name in INBOX.names()} == {2}
        assert (before["delivery"], before["receipts"], before["jobs"]) == (3, 24, 6)

        told = [str(each) for each in apply(admin, 1, {"inbox": 5})]
        assert "inbox.email.bulk: 2 of 5 partitions" in told
        after = counts()
        assert {after[name] for name in INBOX.names()} == {5}
        # A default is not set by anybody, but it is what the topic should have at least.
        assert after["delivery"] == 24

        with pytest.raises(FewerPartitions, match="inbox has 5 partitions, and inbox=4 is set"):
            refuse_fewer(admin, {"inbox": 4, "persisted": 30})
        refuse_fewer(admin, {"inbox": 5, "persisted": 30})
        assert diff(admin, 1, {"inbox": 4}) == []
        assert counts() == after


def test_a_topic_with_fewer_replicas_than_are_set_is_reported_and_refused(broker: Broker) -> None:
    put_there(Cluster(broker.bootstrap))
    with clients.admin(Cluster(broker.bootstrap), "test") as admin:
        told = {each.topic.name: str(each) for each in diff(admin, 3)}
        assert told.keys() == {each.name for each in declared()}
        assert told["delivery"] == "delivery: 1 of 3 replicas, min.insync.replicas must be 2"
        with pytest.raises(FewerReplicas, match=r"delivery .1 of 3 replicas.*kafka-reassign-part"):
            apply(admin, 3)
        assert diff(admin, 1) == []  # nothing was changed


def test_segments_are_short_also_of_topics_that_are_there_already(broker: Broker) -> None:
    put_there(Cluster(broker.bootstrap))
    day = 24 * 3600 * 1000
    for topic in declared():
        assert int(topic.config["segment.ms"]) <= min(day, int(topic.config["retention.ms"]) / 2)
    with clients.admin(Cluster(broker.bootstrap), "test") as admin:
        entry = ConfigEntry("segment.ms", str(7 * day), incremental_operation=AlterConfigOpType.SET)
        name = admin.cluster.topic(DELIVERY.name)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        for future in admin.client.incremental_alter_configs([resource]).values():
            future.result()
        assert [str(each) for each in apply(admin, 1)] == [f"delivery: segment.ms must be {day}"]
        assert diff(admin, 1) == []


def test_the_commands_refuse_fewer_partitions_and_a_start_goes_on_with_what_is_there(
    broker: Broker, tmp_path: Path
) -> None:
    put_there(Cluster(broker.bootstrap))
    env = {**environment(broker, tmp_path), "COURANT_PARTITIONS": "receipts=6"}
    for verb in ("diff", "apply"):
        ended = run("courant_cli.main", "topics", verb, env=env)
        assert ended.returncode == 1
        assert "receipts has 24 partitions, and receipts=6 is set. Kafka can add" in ended.stderr
        assert "Traceback" not in ended.stderr
    started = run("courant_local.prepare", env=env)
    assert "topics keep their partitions" in started.stdout + started.stderr
    # It went on to the tables, where nobody listens.
    assert "port 1 failed" in started.stdout + started.stderr


def test_a_topic_that_has_more_partitions_than_its_default_is_left_as_it_is(broker: Broker) -> None:
    with clients.admin(Cluster(broker.bootstrap), "test") as admin:
        apply(admin, 1, {"jobs": 9})
        assert diff(admin, 1) == []


def test_two_installations_on_one_cluster_do_not_see_each_other(broker: Broker) -> None:
    both = [Cluster(broker.bootstrap, "one.", "one."), Cluster(broker.bootstrap, "two.", "two.")]
    for cluster in both:
        put_there(cluster, beside=True)
    for cluster, value in zip(both, (b"first", b"second"), strict=True):
        producer = KafkaProducer(cluster, "test")
        producer.produce(Outgoing(DELIVERY.name, uuid4().bytes, value))
        producer.flush()
    for cluster, value in zip(both, (b"first", b"second"), strict=True):
        with closing(KafkaConsumer(cluster, "group", [DELIVERY.name])) as consumer:
            until, records = time.monotonic() + 60, []
            while not records:
                assert time.monotonic() < until, "nothing came"
                records = list(consumer.poll(10))
            consumer.commit(records)
            assert [each.value for each in records] == [value]
            [partition] = {each.partition for each in records}
        assert partition.topic == DELIVERY.name
        with closing(offsets.CommittedOffsets(cluster, "test", "group")) as commits:
            assert commits.of([partition]) == {partition: 1}
