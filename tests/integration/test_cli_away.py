"""What the `courant` command says while PostgreSQL refuses connections."""

import json
import socket
import sys
from uuid import UUID

import pytest

from courant.kafka.clients import Cluster
from courant.kafka.producer import KafkaProducer
from courant.records import Dead
from courant.testing.builders import notification, record
from courant_cli import main
from courant_local.kafka import Broker


@pytest.fixture
def away(broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Let the command find Kafka, and a PostgreSQL that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("COURANT_HOME", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://courant@127.0.0.1:{port}/courant")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["courant", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("away")
def test_dead_letters_are_listed_with_a_note(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = KafkaProducer(Cluster(broker.bootstrap), "test")
    producer.produce(Dead(record(notification(1)), "a reason").letter())
    producer.flush()
    assert run(monkeypatch, "dead", "list", "--family", "inbox", "--json") == 0
    out, err = capsys.readouterr()
    [letter] = json.loads(out)
    assert (letter["reason"], letter["sent_back"]) == ("a reason", "unknown")
    assert len(err.splitlines()) == 1
    assert "not known" in err


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    "words", [["db", "upgrade"], ["dead", "redrive", "all"], ["trace", str(UUID(int=0))]]
)
def test_every_other_command_says_it_in_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) != 0
    _, err = capsys.readouterr()
    assert "Traceback" not in err
