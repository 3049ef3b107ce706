"""Making the cluster's topics match what is declared: `courant topics diff|apply`."""

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
"""`min.insync.replicas` by replication; 2 from three replicas on."""
SIGN = INBOX.names()[0]
"""The name by which an installation is looked for; all of its family must be there."""


class OtherPrefix(Exception):
    """The cluster has Courant's topics under another prefix, and none under the one that is set."""


class FewerPartitions(Exception):
    """Fewer partitions are set than a topic has."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a topic lacks: it is missing, has too few partitions, or another configuration."""

    topic: Topic
    missing: bool
    partitions: int  # that it has
    config: dict[str, str]  # what must be set

    def __str__(self) -> str:
        if self.missing:
            return f"{self.topic.name}: is missing"
        few = f"{self.partitions} of {self.topic.partitions} partitions"
        told = [few] if self.partitions < self.topic.partitions else []
        told += [f"{name} must be {value}" for name, value in sorted(self.config.items())]
        return f"{self.topic.name}: {', '.join(told)}"


def diff(
    admin: Admin,
    replication: int,
    partitions: Mapping[str, int] | None = None,
    beside: bool = False,
) -> list[Difference]:
    """Compare the cluster with what is declared; raises Unavailable.

    `partitions` are the numbers that are set, by family; the others have their defaults. A topic
    that has more is left as it is (`refuse_fewer` reports it). Raises OtherPrefix, unless topics
    beside those of another installation are wanted.
    """
    cluster = admin.cluster
    try:
        listed = admin.client.list_topics(timeout=ANSWER_SECONDS).topics
        if not beside:
            _same_prefix(cluster, listed)
        present = {cluster.name_of(name): topic for name, topic in listed.items()
                   if name.startswith(cluster.topic_prefix)}  # fmt: skip
        wanted = [
            Topic(
                each.name,
                each.partitions,
                {**each.config, "min.insync.replicas": str(IN_SYNC_MIN.get(replication, 2))},
            )
            for each in declared(partitions)
        ]
        there = [each for each in wanted if each.name in present]
        asked = [ConfigResource(ResourceType.TOPIC, cluster.topic(each.name)) for each in there]
        futures = (
            admin.client.describe_configs(asked, request_timeout=ANSWER_SECONDS) if asked else {}
        )
        configs = {
            cluster.name_of(resource.name): future.result() for resource, future in futures.items()
        }
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].name()}") from None
    found = [Difference(each, True, 0, {}) for each in wanted if each.name not in present]
    for each in there:
        has = {name: entry.value for name, entry in configs[each.name].items()}
        other = {name: value for name, value in each.config.items() if has.get(name) != value}
        count = len(present[each.name].partitions)
        if other or count < each.partitions:
            found.append(Difference(each, False, count, other))
    return found


def apply(
    admin: Admin,
    replication: int,
    partitions: Mapping[str, int] | None = None,
    beside: bool = False,
) -> list[Difference]:
    """Make the cluster match, and return what was done. Takes nothing away; raises as `diff`."""
    done, cluster = diff(admin, replication, partitions, beside), admin.cluster
    new = [
        NewTopic(
            cluster.topic(each.topic.name),
            num_partitions=each.topic.partitions,
            replication_factor=replication,
            config=dict(each.topic.config),
        )
        for each in done
        if each.missing
    ]
    more = [
        NewPartitions(cluster.topic(each.topic.name), each.topic.partitions)
        for each in done
        if not each.missing and each.partitions < each.topic.partitions
    ]
    settings = [
        ConfigResource(
            ResourceType.TOPIC,
            cluster.topic(each.topic.name),
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in each.config.items()
            ],
        )
        for each in done
        if each.config
    ]
    try:
        made = admin.client.create_topics(new, operation_timeout=ANSWER_SECONDS) if new else {}
        grown = admin.client.create_partitions(more) if more else {}
        set_ = admin.client.incremental_alter_configs(settings) if settings else {}
        for future in (*made.values(), *grown.values(), *set_.values()):
            future.result()
    except KafkaException as raised:
        raise Unavailable(f"Kafka: {raised.args[0].str()}") from None
    _wait_until_led(admin, [each.topic.name for each in done if each.missing])
    return done


def _same_prefix(cluster: Cluster, listed: Collection[str]) -> None:
    # New and empty topics lose nothing, but nobody would read the full ones beside them.
    found = {name.removesuffix(SIGN) for name in listed if name.endswith(SIGN)}
    whole = [prefix for prefix in found if all(prefix + name in listed for name in INBOX.names())]
    others = sorted(whole)
    if others and cluster.topic_prefix not in found:
        raise OtherPrefix(
            f'no topic on the cluster has the prefix "{cluster.topic_prefix}", which '
            f"COURANT_TOPIC_PREFIX sets, but Courant's topics are there with the prefix "
            f"{' or '.join(map(_shown, others))}. Kafka cannot rename them: to go on with them set "
            f"{' or '.join(f'COURANT_TOPIC_PREFIX={each}' for each in others)}. If another, empty "
            f"installation is meant, make its topics once by `courant topics apply --beside`."
        )


def refuse_fewer(admin: Admin, wanted: Mapping[str, int]) -> None:
    """Raise FewerPartitions if a topic has more partitions than are set; raises Unavailable."""
    with raises_unavailable():
        listed = admin.client.list_topics(timeout=ANSWER_SECONDS).topics
    present = {name: len(topic.partitions) for name, topic in listed.items()}
    most = {
        each.name: max(present.get(admin.cluster.topic(name), 0) for name in each.names())
        for each in FAMILIES
    }
    fewer = [f"{name} has {most[name]} partitions, and {name}={count} is set"
             for name, count in wanted.items() if count < most[name]]  # fmt: skip
    if fewer:
        raise FewerPartitions(
            f"{'; '.join(fewer)}. Kafka can add partitions to a topic and never take any away: set "
            f"COURANT_PARTITIONS to as many or more, or leave these out."
        )


def _shown(prefix: str) -> str:
    return f'"{prefix}"' if prefix else '"" (none)'


def _wait_until_led(admin: Admin, names: list[str]) -> None:
    # A topic that was just made is not known to every broker yet, nor has each partition a leader.
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
