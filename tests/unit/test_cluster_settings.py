"""What settings refuse, and what a cluster is built from."""

import pytest

from courant.kafka.clients import Cluster
from courant.settings import Settings, TopicSettings, load

ADDRESS = "127.0.0.1:9092"


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", ADDRESS)
    for name in ("COURANT_TOPIC_PREFIX", "COURANT_GROUP_PREFIX"):
        monkeypatch.delenv(name, raising=False)


def test_topics_and_groups_have_the_prefix_courant_unless_another_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load(Settings, "test").cluster == Cluster(ADDRESS, "courant.", "courant.")
    monkeypatch.setenv("COURANT_TOPIC_PREFIX", "")
    monkeypatch.setenv("COURANT_GROUP_PREFIX", "acme.")
    assert load(Settings, "test").cluster == Cluster(ADDRESS, "", "acme.")


@pytest.mark.parametrize("name", ["COURANT_TOPIC_PREFIX", "COURANT_GROUP_PREFIX"])
@pytest.mark.parametrize("wrong", ["a b", "a/b", "ä", "a\n", "x" * 101])
def test_a_prefix_that_kafka_does_not_allow_stops_the_start_and_is_named(
    name: str, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, wrong)
    with pytest.raises(SystemExit) as ended:
        load(Settings, "test")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert name in told
    assert "up to 100 letters" in told
    assert wrong in told


def test_the_partitions_of_families_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURANT_REPLICATION", "1")
    monkeypatch.delenv("COURANT_PARTITIONS", raising=False)
    assert load(TopicSettings, "test").partitions == {}
    monkeypatch.setenv("COURANT_PARTITIONS", "inbox=48, jobs=12,")
    assert load(TopicSettings, "test").partitions == {"inbox": 48, "jobs": 12}


@pytest.mark.parametrize(
    "wrong",
    [
        *("directory=1", "usage=3", "stats=6"),  # fixed
        *("outbox=6", "inbox.email.bulk=6", "inbox.dead=2", "inbox", "inbox=", "=6", "inbox=six"),
        *("inbox=0", "inbox=-1", "inbox=1001", "inbox=6,inbox=7", "inbox=6;jobs=6"),
    ],
)
def test_partitions_that_no_topic_may_have_stop_the_start_and_are_named(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COURANT_REPLICATION", "1")
    monkeypatch.setenv("COURANT_PARTITIONS", wrong)
    with pytest.raises(SystemExit):
        load(TopicSettings, "test")
    told = capsys.readouterr().err
    assert "COURANT_PARTITIONS" in told
    assert f'got "{wrong}"' in told
