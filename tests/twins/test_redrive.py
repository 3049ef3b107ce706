"""`courant failed` on PostgreSQL: what failed unsent is ordered again, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from sqlalchemy import Engine

from courant.contracts import Decided, decode_delivery
from courant.idempotency import OTHER_BODY
from courant.lifecycle import Move, State
from courant.records import Outgoing
from courant.testing.builders import NOW, decided, id_of, number_of
from courant_cli import dead, failed
from courant_local.plan import CommandError
from support.saver import FakeTwin, PostgresTwin, Twin, settle

SINCE = (datetime.now(UTC) - timedelta(hours=1)).replace(tzinfo=None)


class Records:
    """A producer that keeps its records."""

    def __init__(self) -> None:
        self.kept: list[Outgoing] = []

    def produce(self, outgoing: Outgoing) -> None:
        self.kept.append(outgoing)

    def flush(self) -> None:
        """Do nothing: all records are kept."""


@pytest.fixture
def real(engine: Engine) -> PostgresTwin:
    return PostgresTwin(engine)


@pytest.fixture
def records(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Records:
    records = Records()
    installation = SimpleNamespace(engine=engine, producer=records)
    monkeypatch.setattr(failed, "Installation", lambda: installation)
    return records


def redriven(records: Records) -> set[int]:
    decisions = [decode_delivery(each.value) for each in records.kept]
    assert all(isinstance(each, Decided) and each.move is Move.REDRIVEN for each in decisions)
    return {number_of(each.id) for each in decisions if isinstance(each, Decided)}


def test_every_failure_that_was_not_sent_is_redriven_and_nothing_else(
    real: PostgresTwin, records: Records
) -> None:
    for number, state in enumerate(State):
        real.put(number, state, 3)
        real.put(100 + number, state, 3)
    real.ask("UPDATE notifications SET sent_at = now() WHERE id >= :id", id=id_of(100))
    failed.redrive(SINCE)
    failures = {"technical-failure", "permanent-failure", "provider-failure"}
    unsent = {number for number, state in enumerate(State) if state in failures}
    assert redriven(records) == unsent | {100 + [*State].index(State.TECHNICAL_FAILURE)}


def test_failures_are_chosen_by_state_reason_service_and_time(
    real: PostgresTwin, records: Records
) -> None:
    for number in range(5):
        real.put(number, State.PERMANENT_FAILURE, 1)
    real.ask("UPDATE notifications SET reason = 'MessageRejected', service_id = :s", s=UUID(int=9))
    real.ask("UPDATE notifications SET reason = 'other' WHERE id = :id", id=id_of(1))
    real.ask("UPDATE notifications SET state = 'provider-failure' WHERE id = :id", id=id_of(2))
    real.ask("UPDATE notifications SET service_id = :s WHERE id = :id", s=UUID(int=8), id=id_of(3))
    real.put(5, State.TECHNICAL_FAILURE, 0)  # it lost its Idempotency-Key
    refused = "UPDATE notifications SET reason = :reason, service_id = :s WHERE id = :id"
    real.ask(refused, reason=OTHER_BODY, s=UUID(int=9), id=id_of(5))
    long_ago = "UPDATE notifications SET state_at = now() - interval '2 hours' WHERE id = :id"
    real.ask(long_ago, id=id_of(4))
    failed.redrive(SINCE, "permanent-failure", "Rejected", UUID(int=9))
    assert redriven(records) == {0}
    failed.list_failed(SINCE)
    failed.redrive(SINCE, "technical-failure")
    assert redriven(records) == {0}


def test_what_is_emptied_is_not_redriven_and_the_command_says_so(
    real: PostgresTwin, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        real.put(number, State.TECHNICAL_FAILURE, 1)
    real.ask("UPDATE notifications SET sealed = '' WHERE id = :id", id=id_of(1))
    failed.redrive(SINCE)
    assert redriven(records) == {0, 2}
    assert "1 are left out: their retention is over" in capsys.readouterr().out
    letter = dead.Letter("persisted.dead", 0, 0, NOW, id_of(1).bytes, b"", (), 1)
    with real.engine.connect() as connection:
        assert dead.order_again(connection, letter) == dead.EMPTIED
        assert isinstance(
            dead.order_again(connection, replace(letter, key=id_of(0).bytes)), Outgoing
        )
        letter = replace(letter, key=id_of(9).bytes)
        assert dead.order_again(connection, letter) == dead.NOT_FAILED


def test_a_state_that_is_no_failure_is_refused(records: Records) -> None:
    with pytest.raises(CommandError, match="delivered"):
        failed.redrive(SINCE, "delivered")
    assert not records.kept


@pytest.mark.parametrize("kind", ["fake", "postgres"])
def test_a_redriven_notification_has_all_of_its_tries_again(
    kind: str, request: pytest.FixtureRequest
) -> None:
    twin: Twin = FakeTwin() if kind == "fake" else request.getfixturevalue("real")
    twin.put(1, State.PROVIDER_FAILURE, 3)
    if isinstance(twin, PostgresTwin):
        twin.ask("UPDATE notifications SET tries = 5")
    settle(twin, decided(1, Move.REDRIVEN, 3))
    assert [state for _, state, *_ in twin.rows()] == ["created"]
    if isinstance(twin, PostgresTwin):
        assert twin.ask("SELECT tries FROM notifications") == [(0,)]
