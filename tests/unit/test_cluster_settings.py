"""What settings refuse, and what a cluster is built from."""

import pytest

from courant.kafka.clients import Cluster
from courant.settings import Settings, load

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
    assert "up to 100 letters" in told or "likewise" in told
    assert wrong in told
