"""Consumers that come and go all the time, and topics that grow, under load."""

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
from fault.site import Site
from support.waiting import wait

STORM_SECONDS = 60
MEMBER_SECONDS = timedelta(seconds=3)
STAYS_MIN = 5  # half of what fits into a storm
WRITERS_LOOK_SECONDS = 15
"""A producer asks every ten seconds what partitions there are."""
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


def test_a_consumer_of_every_group_joins_or_leaves_every_3_s(site: Site) -> None:
    with site.load(50, STORM_SECONDS + 10) as result:
        time.sleep(2)
        with guests(site) as stays:
            time.sleep(STORM_SECONDS)
            # On a busy machine a guest needs longer to come and go.
            wait(lambda: min(stays.values()) >= STAYS_MIN, "every group had its guests", 300)
    found = site.ask(result)
    assert found.wrong() == {}
    assert found.explained == set()
    assert set(result.statuses) == {201}


@contextmanager
def guests(site: Site) -> Iterator[dict[str, int]]:
    """Have each group joined by one more, which takes its share and does nothing; and left again.

    Gives how often a guest of each group was given partitions.
    """
    over = threading.Event()
    stays = dict.fromkeys(GROUPS, 0)

    def come_and_go(name: str) -> None:
        while not over.is_set():
            guest = KafkaConsumer(site.stack.installation.cluster, name, GROUPS[name])
            guest.poll(1)  # joins; what it is given it leaves to who comes after it
            guest.rest(MEMBER_SECONDS)
            stays[name] += bool(guest.positions())
            guest.close()
            over.wait(MEMBER_SECONDS.total_seconds())

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in GROUPS]
    for each in threads:
        each.start()
    try:
        yield stays
    finally:
        over.set()
        for each in threads:
            each.join()


def test_partitions_are_added_to_every_topic(site: Site) -> None:
    cluster = site.stack.installation.cluster
    with site.load(100, 40) as result:
        time.sleep(3)
        # Who writes knows of the new ones first, so that who reads finds something in them.
        with site.still("saver"), site.still("deliverer"):
            grow(cluster)
            time.sleep(WRITERS_LOOK_SECONDS)
    found = site.ask(result)
    assert found.wrong() == {}
    assert len(found.explained) <= len(site.inside)
    assert set(result.statuses) == {201}
    used = (INBOX.topic(Channel.EMAIL, Lane.NORMAL), PERSISTED.topic(Channel.EMAIL, Lane.NORMAL))
    with clients.admin(cluster, "test") as client:
        ends = offsets.ends(client, offsets.partitions(client, (*used, *DELIVERY.names())))
    new = [end for each, end in ends.items() if each.number >= GROWN[each.topic] - MORE]
    assert len(new) == 3 * MORE
    assert all(new), "a new partition was not used"


def grow(cluster: Cluster) -> None:
    """Add partitions to each topic that may have several."""
    wanted = [NewPartitions(cluster.topic(name), count) for name, count in GROWN.items()]
    with clients.admin(cluster, "test") as admin:
        for done in admin.client.create_partitions(wanted).values():
            done.result(timeout=120)
