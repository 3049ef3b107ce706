"""Receipts without our tags that wait for their row, on a real PostgreSQL."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from courant import contracts
from courant.directory.entries import Directory
from courant.errors import Unavailable
from courant.records import Record
from courant.testing.builders import RECEIPTS, untagged
from recovery import rules, tasks, upkeep
from recovery.sweeps import Tools
from recovery.tasks import TASKS
from support.recovery import Scenario, ago, id_of, make_mistake

BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture
def scenario(engine: Engine) -> Scenario:
    return Scenario(engine)


def run(scenario: Scenario) -> int:
    tools = Tools(scenario.producer, Directory(), {}, timedelta(seconds=30))
    return tasks.run(BY_NAME["receipts"], scenario.store, tools)


def wait_for(scenario: Scenario, number: int, sns_id: str, at: str = "ago(1)") -> None:
    receipt = untagged(f"message-{number}", "delivered", sns_id, second=number)
    sql = f"""INSERT INTO receipts_waiting (sns_id, message_id, value, partition, "offset", at)
        VALUES (:sns_id, :message_id, :value, 2, 17, {ago(at)})"""
    scenario.ask(sql, sns_id=sns_id, message_id=receipt.message_id, value=receipt.encode())


def written(scenario: Scenario, topic: str) -> list[Record]:
    return [
        each for at, log in scenario.world.kafka.log.items() if at.topic == topic for each in log
    ]


def waiting(scenario: Scenario) -> list[Any]:
    return [id for (id,) in scenario.ask("SELECT sns_id FROM receipts_waiting ORDER BY 1")]


def matched(scenario: Scenario) -> bool:
    scenario.row(1, "sending", attempt="3", message_id="'message-1'")
    wait_for(scenario, 1, "m-1")
    wait_for(scenario, 2, "m-2")
    run(scenario)
    receipts = [contracts.decode_receipt(each.value) for each in written(scenario, RECEIPTS)]
    [expected] = [untagged("message-1", "delivered", "m-1", second=1).of(id_of(1), 3)]
    return (receipts, waiting(scenario)) == ([expected], ["m-2"])


def given_up(scenario: Scenario) -> bool:
    wait_for(scenario, 1, "young", at=f"ago({6.9 * 86_400})")
    wait_for(scenario, 2, "old", at=f"ago({7.1 * 86_400})")
    run(scenario)
    letters = written(scenario, "receipts.dead")
    reasons = [dict(each.headers)["courant.reason"] for each in letters]
    return (reasons, waiting(scenario)) == (
        [b"message_id: no notification has had it"],
        ["young"],
    ) and dict(letters[0].headers)["courant.origin"] == b"receipts/2/17"


def tried_later(scenario: Scenario) -> bool:
    """Return whether strangers' receipts are tried ever more rarely, and once at the end."""
    for at in (1, 3600, 6 * 86_400):
        wait_for(scenario, 1, f"m-{at}", at=f"ago({at})")
    run(scenario)
    # Rounded to minutes, because the test itself takes some time.
    sql = """SELECT round(extract(epoch FROM try_at - now()) / 60) FROM receipts_waiting
        ORDER BY try_at"""
    return [int(minutes) for (minutes,) in scenario.ask(sql)] == [0, 60, 1440]


HABITS = {
    "a receipt goes to the row that has its message id by now": matched,
    "a receipt that no row matches in a week is a dead letter": given_up,
    "a receipt that matches nothing is tried ever more rarely": tried_later,
}


@pytest.mark.parametrize("habit", HABITS)
def test_recovery_looks_again(habit: str, scenario: Scenario) -> None:
    assert HABITS[habit](scenario)


def test_a_receipt_is_not_forgotten_before_it_is_written(scenario: Scenario) -> None:
    scenario.row(1, "sending", message_id="'message-1'")
    wait_for(scenario, 1, "m-1")
    scenario.world.kafka.refusals = 1
    with pytest.raises(Unavailable):
        run(scenario)
    assert waiting(scenario) == ["m-1"]
    assert run(scenario) == 1
    assert waiting(scenario) == []


# For each mistake: the habit that it breaks; the owner, the name, the right words, the wrong words.
MISTAKES: dict[str, tuple[str, Any, str, str, str]] = {
    "the attempt is not the row's": ("matched", rules, "matched", ".of(id, attempt)", ".of(id, 1)"),
    "a matched receipt waits on": (
        "matched",
        upkeep,
        "FORGET_RECEIPTS",
        "DELETE FROM",
        "SELECT FROM",
    ),
    "given up without a letter": (
        "given_up",
        upkeep,
        "match_receipts",
        ", *map(rules.given_up, given_up)",
        "",
    ),
    "tried at every round": ("tried_later", upkeep, "TRY_LATER", "now() - at", "interval '0'"),
    "tried after its time only": ("tried_later", upkeep, "TRY_LATER", "least(", "greatest("),
}
BY_FUNCTION = {check.__name__: check for check in HABITS.values()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(
    mistake: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    habit, *where = MISTAKES[mistake]
    make_mistake(monkeypatch, BY_NAME, where)
    assert not BY_FUNCTION[habit](scenario)
