"""Consumers that join and leave every group under load, and partitions added to topics."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from confluent_kafka.admin import NewPartitions

from courant.kafka import clients, offsets
from courant.kafka.clients import Cluster
from courant.kafka.consumer import KafkaConsumer
from courant.topics import DELIVERY, FAMILIES, INBOX, PERSISTED, RECEIPTS, Channel, Lane, group
from fault.harness import Harness
from support.waiting import wait

STORM_SECONDS = 60
MEMBER_SECONDS = timedelta(seconds=3)
STAYS_MIN = 5  # Half of the stays that fit into STORM_SECONDS.
WRITERS_LOOK_SECONDS = 15
"""A producer refreshes its list of partitions every ten seconds."""
GROUPS = {
    **{group("saver", INBOX, lane): INBOX.topics(lane) for lane in Lane},
    group("saver", DELIVERY): DELIVERY.names(),
    group("saver", RECEIPTS): RECEIPTS.names(),
    **{
        group("deliverer", PERSISTED, channel, lane): (PERSISTED.topic(channel, lane),)
        for channel in Channel
        for lane in Lane
    },
}
MORE = 3
GROWN = {
    name: family.partitions + MORE
    for family in FAMILIES
    if family.partitions > 1
    for name in family.names()
}


def test_consumers_that_join_and_leave_every_group_lose_and_repeat_nothing(
    harness: Harness,
) -> None:
    with harness.load(50, STORM_SECONDS + 10) as result:
        time.sleep(2)
        with extra_members(harness) as stays:
            time.sleep(STORM_SECONDS)
            # On a busy machine a member takes longer to join and leave.
            wait(lambda: min(stays.values()) >= STAYS_MIN, "every group had extra members", 300)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert set(result.statuses) == {201}


@contextmanager
def extra_members(harness: Harness) -> Iterator[dict[str, int]]:
    """Let one more consumer join and leave each group every MEMBER_SECONDS while the block runs.

    It takes its share of the partitions and processes nothing. Yields how often the extra member
    of each group was assigned partitions.
    """
    over = threading.Event()
    stays = dict.fromkeys(GROUPS, 0)

    def come_and_go(name: str) -> None:
        while not over.is_set():
            member = KafkaConsumer(harness.stack.installation.cluster, name, GROUPS[name])
            # The poll joins the group. Records that it returns are left to the next consumer.
            member.poll(1)
            member.rest(MEMBER_SECONDS)
            stays[name] += bool(member.positions())
            member.close()
            over.wait(MEMBER_SECONDS.total_seconds())

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in GROUPS]
    for thread in threads:
        thread.start()
    try:
        yield stays
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_partitions_added_under_load_are_used_and_nothing_is_lost(harness: Harness) -> None:
    cluster = harness.stack.installation.cluster
    with harness.load(100, 40) as result:
        time.sleep(3)
        # The producers learn of the new partitions first, so that the consumers find records there.
        with harness.frozen("saver"), harness.frozen("deliverer"):
            grow(cluster)
            time.sleep(WRITERS_LOOK_SECONDS)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
    assert set(result.statuses) == {201}
    used = (INBOX.topic(Channel.EMAIL, Lane.NORMAL), PERSISTED.topic(Channel.EMAIL, Lane.NORMAL))
    with clients.admin(cluster, "test") as client:
        ends = offsets.ends(client, offsets.partitions(client, (*used, *DELIVERY.names())))
    new = [end for part, end in ends.items() if part.number >= GROWN[part.topic] - MORE]
    assert len(new) == 3 * MORE
    assert all(new), "a new partition was not used"


def grow(cluster: Cluster) -> None:
    """Add partitions to each topic that may have more than one."""
    grown = [NewPartitions(cluster.topic(name), count) for name, count in GROWN.items()]
    with clients.admin(cluster, "test") as admin:
        for future in admin.client.create_partitions(grown).values():
            future.result(timeout=120)
