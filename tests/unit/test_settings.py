from typing import Any

import pytest

from courant import settings
from courant.settings import RENAMED, Settings
from courant_cli.docs import SERVICES
from deliverer.settings import DelivererSettings
from ingest.settings import IngestSettings
from saver.settings import SaverSettings

GIVEN = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "DATABASE_URL": "postgresql://courant@127.0.0.1/courant",
    "COURANT_SEAL_KEYS": "a:" + "A" * 43 + "=",
    "COURANT_HASH_KEY": "a hash key for tests",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    for name in {*RENAMED, *RENAMED.values()}:
        monkeypatch.delenv(name, raising=False)


def refusal(kind: type[Settings], capsys: pytest.CaptureFixture[str]) -> str:
    """Load settings that are not usable; gives what the service prints."""
    with pytest.raises(SystemExit) as raised:
        settings.load(kind, "it")
    assert raised.value.code == 2
    return capsys.readouterr().err


def test_ingest_and_deliverer_read_one_sending_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURANT_SENDING_DOMAIN", "mail.example.ca")
    assert settings.load(IngestSettings, "it").courant_sending_domain == "mail.example.ca"
    assert settings.load(DelivererSettings, "it").courant_sending_domain == "mail.example.ca"


def test_the_sending_domain_has_one_default() -> None:
    assert settings.load(IngestSettings, "it").courant_sending_domain == "notification.canada.ca"
    assert settings.load(DelivererSettings, "it").courant_sending_domain == "notification.canada.ca"


@pytest.mark.parametrize("kind", [IngestSettings, DelivererSettings])
@pytest.mark.parametrize(
    "name",
    [
        "INGEST_SENDING_DOMAIN",
        "DELIVERER_EMAIL_DOMAIN",
        "deliverer_email_domain",
        "INGEST_SENDING_DOMAIN_FILE",
    ],
)
def test_an_old_name_stops_the_start_and_names_the_new_one(
    kind: type[Settings],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "mail.example.ca")
    line = refusal(kind, capsys).splitlines()[1]
    assert line.split()[0] == name.upper().removesuffix("_FILE")
    assert line.endswith("its name is COURANT_SENDING_DOMAIN now")


def test_an_old_name_stops_the_start_although_the_new_one_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELIVERER_EMAIL_DOMAIN", "mail.example.ca")
    monkeypatch.setenv("COURANT_SENDING_DOMAIN", "other.example.ca")
    assert "DELIVERER_EMAIL_DOMAIN" in refusal(DelivererSettings, capsys)


def test_an_old_name_is_reported_together_with_all_else_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INGEST_SENDING_DOMAIN", "mail.example.ca")
    monkeypatch.setenv("INGEST_PORT", "no port")
    told = refusal(IngestSettings, capsys)
    assert "INGEST_SENDING_DOMAIN" in told
    assert "INGEST_PORT" in told


def test_a_service_that_does_not_read_the_new_name_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERER_EMAIL_DOMAIN", "mail.example.ca")
    assert settings.load(SaverSettings, "it")


def test_each_new_name_is_read_by_a_service_and_no_old_one_is() -> None:
    known: set[Any] = {name.upper() for kind in SERVICES.values() for name in kind.model_fields}
    assert set(RENAMED.values()) <= known
    assert not known & RENAMED.keys()


def test_health_on_the_apis_own_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INGEST_HEALTH_PORT", "8400")
    told = refusal(IngestSettings, capsys)
    assert "INGEST_HEALTH_PORT must be another port than INGEST_PORT" in told
