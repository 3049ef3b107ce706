"""How long a service's content is kept: in its entry, and by the command that changes it."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from typer.testing import CliRunner

from courant.contracts import Malformed
from courant.directory import entries
from courant.directory.entries import Directory, Service
from courant_cli import services

SERVICE = Service(id=UUID(int=1), name="Passports", number=3)


def test_an_entry_of_an_earlier_version_has_the_usual_retention() -> None:
    earlier = b'{"kind":"service","id":"00000000-0000-0000-0000-000000000001","name":"Passports"}'
    entry = entries.decode(earlier)
    assert isinstance(entry, Service)
    assert entry.retention_days == 7


@pytest.mark.parametrize(("days", "good"), [(2, False), (3, True), (90, True), (91, False)])
def test_a_retention_is_from_3_to_90_days(days: int, good: bool) -> None:
    value = entries.encode(msgspec.structs.replace(SERVICE, retention_days=days))
    if good:
        assert entries.decode(value) == msgspec.structs.replace(SERVICE, retention_days=days)
        return
    with pytest.raises(Malformed):
        entries.decode(value)


@pytest.mark.parametrize(
    ("days", "exit_code", "kept"), [("30", 0, [30]), ("2", 2, []), ("91", 2, [])]
)
def test_the_command_changes_the_retention_of_a_service(
    monkeypatch: pytest.MonkeyPatch, days: str, exit_code: int, kept: list[int]
) -> None:
    directory = Directory()
    directory.put(SERVICE)
    put: list[Any] = []

    class FakeInstallation:
        engine = None

    def put_entry(_: object, entry: Service) -> Service:
        put.append(entry)
        return entry

    monkeypatch.setattr(services, "Installation", FakeInstallation)
    monkeypatch.setattr(services.publish, "load", lambda _: directory)
    monkeypatch.setattr(services, "put_entry", put_entry)
    ended = CliRunner().invoke(services.app, ["retention", str(SERVICE.id), days])
    assert ended.exit_code == exit_code
    assert put == [msgspec.structs.replace(SERVICE, retention_days=each) for each in kept]
