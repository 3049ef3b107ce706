"""Compares the cluster's topics with the declared ones, and changes them to match.

`courant topics diff|apply` and the preparation of an installation call it.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from courant.errors import Unavailable
from courant.kafka import offsets
from courant.kafka.clients import Admin, Cluster, raises_unavailable
from courant.topics import FAMILIES, INBOX, Topic, declared

ANSWER_SECONDS = 15.0
LED_SECONDS = 60.0  # on a busy machine the leaders of 360 new partitions took over 15 s
IN_SYNC_MIN = {1: 1, 2: 1}
"""`min.insync.replicas` by number of replicas; 2 for three and more."""
SIGN = INBOX.names()[0]
"""A topic with this name shows that an installation may be there. Its whole family must exist."""


class OtherPrefix(Exception):
    """The cluster has Courant's topics under another prefix, and none under the one that is set."""


class FewerPartitions(Exception):
    """The setting has fewer partitions than a topic has."""


class FewerReplicas(Exception):
    """A topic has fewer replicas than are set, and only a reassignment can add them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A topic that is missing, has too few partitions or replicas, or another configuration."""

    topic: Topic  # as it must be
    missing: bool
    partitions: int  # as it is
    config: dict[str, str]  # options that must be set
    replicas: str = ""  # how many each partition has and must have, if these are too few

    def __str__(self) -> str:
        if self.missing:
            return f"{self.topic.name}: is missing"
        few = f"{self.partitions} of {self.topic.partitions} partitions"
        faults = [few] if self.partitions < self.topic.partitions else []
        faults += [self.replicas] if self.replicas else []
        faults += [f"{name} must be {value}" for name, value in sorted(self.config.items())]
        return f"{self.topic.name}: {', '.join(faults)}"


def diff(
    admin: Admin,
    replication: int,
    partitions: Mapping[str, int] | None = None,
    beside: bool = False,
) -> list[Difference]:
    """Return how the cluster's topics differ from the declared ones; raises Unavailable.

    `partitions` has the numbers that are set, by family; other families have their default. A topic
    that has more partitions than its default or the setting keeps them (`refuse_fewer` reports it).
    Raises OtherPrefix if another installation has topics there, unless `beside`.
    """
    cluster = admin.cluster
    try:
        listed = admin.client.list_topics(timeout=ANSWER_SECONDS).topics
        if not beside:
            _same_prefix(cluster, listed)
        present = {cluster.name_of(name): topic for name, topic in listed.items()
                   if name.startswith(cluster.topic_prefix)}  # fmt: skip
        topics = [
            Topic(
                topic.name,
                topic.partitions,
                {**topic.config, "min.insync.replicas": str(IN_SYNC_MIN.get(replication, 2))},
            )
            for topic in declared(partitions)
        ]
        existing = [topic for topic in topics if topic.name in present]
        resources = [
            ConfigResource(ResourceType.TOPIC, cluster.topic(topic.name)) for topic in existing
        ]
        futures = (
            admin.client.describe_configs(resources, request_timeout=ANSWER_SECONDS)
            if resources
            else {}
        )
        configs = {
            cluster.name_of(resource.name): future.result() for resource, future in futures.items()
        }
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
    differences = [Difference(topic, True, 0, {}) for topic in topics if topic.name not in present]
    for topic in existing:
        actual = {name: entry.value for name, entry in configs[topic.name].items()}
        config = {name: value for name, value in topic.config.items() if actual.get(name) != value}
        partitions_there = present[topic.name].partitions
        count = len(partitions_there)
        fewest = min(len(each.replicas) for each in partitions_there.values())
        replicas = f"{fewest} of {replication} replicas" if fewest < replication else ""
        if config or replicas or count < topic.partitions:
            differences.append(Difference(topic, False, count, config, replicas))
    return differences


def apply(
    admin: Admin,
    replication: int,
    partitions: Mapping[str, int] | None = None,
    beside: bool = False,
) -> list[Difference]:
    """Make the cluster match, and return what was changed. Raises the same exceptions as `diff`.

    It deletes nothing. Raises FewerReplicas, and changes nothing, if it cannot make all match.
    """
    changes, cluster = diff(admin, replication, partitions, beside), admin.cluster
    _refuse_fewer_replicas(cluster, changes)
    new = [
        NewTopic(
            cluster.topic(change.topic.name),
            num_partitions=change.topic.partitions,
            replication_factor=replication,
            config=dict(change.topic.config),
        )
        for change in changes
        if change.missing
    ]
    more = [
        NewPartitions(cluster.topic(change.topic.name), change.topic.partitions)
        for change in changes
        if not change.missing and change.partitions < change.topic.partitions
    ]
    settings = [
        ConfigResource(
            ResourceType.TOPIC,
            cluster.topic(change.topic.name),
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in change.config.items()
            ],
        )
        for change in changes
        if change.config
    ]
    try:
        created = admin.client.create_topics(new, operation_timeout=ANSWER_SECONDS) if new else {}
        grown = admin.client.create_partitions(more) if more else {}
        configured = admin.client.incremental_alter_configs(settings) if settings else {}
        for future in (*created.values(), *grown.values(), *configured.values()):
            future.result()
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].str()}") from None
    _wait_until_led(admin, [change.topic.name for change in changes if change.missing])
    return changes


def _same_prefix(cluster: Cluster, listed: Collection[str]) -> None:
    # With a wrong prefix, new and empty topics would be created, and nobody would read the records
    # in the existing ones.
    prefixes = {name.removesuffix(SIGN) for name in listed if name.endswith(SIGN)}
    others = sorted(
        prefix for prefix in prefixes if all(prefix + name in listed for name in INBOX.names())
    )
    if others and cluster.topic_prefix not in prefixes:
        raise OtherPrefix(
            f'no topic on the cluster has the prefix "{cluster.topic_prefix}", which '
            f"COURANT_TOPIC_PREFIX sets, but Courant's topics are there with the prefix "
            f"{' or '.join(map(_shown, others))}. Kafka cannot rename topics. To use them, set "
            f"{' or '.join(f'COURANT_TOPIC_PREFIX={prefix}' for prefix in others)}. To start "
            f"another, empty installation, create its topics once: `courant topics apply --beside`."
        )


def refuse_fewer(admin: Admin, wanted: Mapping[str, int]) -> None:
    """Raise FewerPartitions if a topic has more partitions than are set; raises Unavailable."""
    with raises_unavailable():
        listed = admin.client.list_topics(timeout=ANSWER_SECONDS).topics
    present = {name: len(topic.partitions) for name, topic in listed.items()}
    counts = {
        family.name: max(present.get(admin.cluster.topic(name), 0) for name in family.names())
        for family in FAMILIES
    }
    fewer = [f"{name} has {counts[name]} partitions, and {name}={count} is set"
             for name, count in wanted.items() if count < counts[name]]  # fmt: skip
    if fewer:
        raise FewerPartitions(
            f"{'; '.join(fewer)}. Kafka can add partitions to a topic but never remove any. Set "
            f"COURANT_PARTITIONS to as many or more, or leave these families out."
        )


def _refuse_fewer_replicas(cluster: Cluster, changes: Collection[Difference]) -> None:
    # With fewer replicas, min.insync.replicas means nothing: Kafka takes the lesser number, and a
    # 201 would stand for a single copy.
    fewer = [f"{cluster.topic(each.topic.name)} ({each.replicas})"
             for each in changes if each.replicas]  # fmt: skip
    if fewer:
        raise FewerReplicas(
            f"COURANT_REPLICATION is more than these topics have: {', '.join(fewer)}. Nothing was "
            f"changed. Add the replicas with Kafka's own tool, kafka-reassign-partitions.sh "
            f"--generate, --execute and --verify (docs/how-to/run-in-production.md), then run "
            f"`courant topics apply` again."
        )


def _shown(prefix: str) -> str:
    return f'"{prefix}"' if prefix else '"" (none)'


def _wait_until_led(admin: Admin, names: list[str]) -> None:
    # Not every broker knows a new topic yet, and not each of its partitions has a leader.
    until = time.monotonic() + LED_SECONDS
    while names:
        try:
            offsets.ends(admin, offsets.partitions(admin, names))
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
