"""A table that does not fit the code makes records wait; only a bad record is a dead letter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace as replaced
from sqlalchemy import Engine

from courant import records
from courant.contracts import Contract, Outcomes
from courant.errors import Unavailable
from courant.lifecycle import Move, State
from courant.testing.builders import decided, notification, outcomes, receipt, started
from saver import blame
from support.mistakes import replace
from support.saver import PostgresTwin, save, settle

RENAMED = [
    ("notifications", name)
    for name in ("reference", "sealed", "not_before", "attempt", "state", "response", "id")
] + [("events", "move"), ("events", "reason"), ("events", "made")]
RULES = [
    "ALTER TABLE notifications ALTER COLUMN reference TYPE varchar(5)",
    "ALTER TABLE notifications ALTER COLUMN reference TYPE int USING NULL",
    "ALTER TABLE notifications ADD CONSTRAINT later CHECK (reference IS NULL) NOT VALID",
    "ALTER TABLE notifications ADD CONSTRAINT later CHECK (template_version > 7) NOT VALID",
    """ALTER TABLE notifications ADD COLUMN later text NOT NULL DEFAULT 'x';
    ALTER TABLE notifications ALTER COLUMN later DROP DEFAULT""",
    "ALTER TABLE events ADD CONSTRAINT later CHECK (move <> 'saved') NOT VALID",
    """ALTER TABLE events ADD CONSTRAINT later CHECK
    (move NOT IN ('sent', 'started', 'freed', 'delivered', 'saved')) NOT VALID""",
]


@pytest.fixture
def twin(engine: Engine) -> PostgresTwin:
    return PostgresTwin(engine)


@contextmanager
def changed(twin: PostgresTwin, sql: str) -> Iterator[None]:
    """Change the schema while the block runs, in a copy that is thrown away by undoing it."""
    undo = {
        "reference TYPE": lambda: twin.ask(
            "ALTER TABLE notifications ALTER COLUMN reference TYPE text USING NULL"
        ),
        "RENAME": lambda: twin.ask(renamed_back(sql)),
        "CONSTRAINT": lambda: twin.ask(
            f"ALTER TABLE {sql.split()[2]} DROP CONSTRAINT IF EXISTS later"
        ),
        "COLUMN": lambda: twin.ask("ALTER TABLE notifications DROP COLUMN later"),
    }
    twin.ask(sql)
    try:
        yield
    finally:
        next(back for word, back in undo.items() if word in sql)()


def renamed_back(sql: str) -> str:
    _, _, table, _, _, column, _, other = sql.split()
    return f"ALTER TABLE {table} RENAME COLUMN {other} TO {column}"


def keyed(number: int) -> Contract:
    return notification(number, "a reference")


def spoilt(contract: Any, text: str = "a\0b") -> Contract:
    """Return a report whose texts no text of PostgreSQL's can hold."""
    if isinstance(contract, Outcomes):
        answers = tuple(replaced(each, response=text, reason=text) for each in contract.answers)
        return replaced(contract, answers=answers)
    return replaced(contract, response=text)


@pytest.mark.parametrize(("table", "column"), RENAMED)
def test_a_column_that_is_missing_makes_every_record_wait(
    twin: PostgresTwin, table: str, column: str
) -> None:
    twin.put(1, State.CLAIMED, 1)
    with changed(twin, f"ALTER TABLE {table} RENAME COLUMN {column} TO elsewhere"):
        waits = 0
        for step, contract, offset in [
            (save, keyed(2), 1),
            (settle, started(1, {1: 1}), 0),
            (settle, outcomes(1, {1: (1, "deferred")}), 0),
            (settle, decided(1, Move.FREED, 1), 0),
            (settle, receipt(1, "delivered", 1), 0),
        ]:
            try:
                effects = step(twin, contract, offset=offset)
            except Unavailable:
                waits += 1
            else:
                assert no_letters(effects), (step, contract)
        assert waits
    assert [row[0] for row in twin.rows()] in ([1], [1, 2])


def no_letters(effects: Sequence[Any]) -> bool:
    return not any(hasattr(each, "reason") for step in effects for each in step)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_ordinary_records_break_makes_a_single_record_wait(
    twin: PostgresTwin, rule: str
) -> None:
    twin.put(1, State.CLAIMED, 1)
    contracts: list[tuple[Any, Contract, int]] = [(save, keyed(2), 1)]
    if "'sent'" in rule:
        contracts += [
            (settle, outcomes(1, {1: (1, "accepted")}), 0),
            (settle, decided(1, Move.FREED, 1), 0),
            (settle, receipt(1, "delivered", 1), 0),
        ]
    with changed(twin, rule):
        for step, contract, offset in contracts:
            with pytest.raises(Unavailable):
                step(twin, contract, offset=offset)
    for step, contract, offset in contracts[:1]:
        step(twin, contract, offset=offset)
    assert [row[0] for row in twin.rows()] == [1, 2]


def test_a_single_bad_record_is_a_dead_letter_at_once(twin: PostgresTwin) -> None:
    [[dead], []] = save(twin, notification(1, "a\0b"))
    assert dead.reason.startswith("22021")
    assert twin.rows() == []
    twin.put(1, State.SENDING, 1)
    [[dead]] = settle(twin, spoilt(receipt(1, "delivered", 1)))
    assert dead.reason.startswith("22P05")
    assert [row[1] for row in twin.rows()] == ["sending"]
    assert twin.ask("SELECT FROM events WHERE move = 'delivered'") == []


def test_a_report_of_a_call_is_never_a_dead_letter_but_stored_without_its_texts(
    twin: PostgresTwin,
) -> None:
    twin.put(1, State.CLAIMED, 1)
    assert no_letters(settle(twin, started(1, {1: 1}), spoilt(outcomes(1, {1: (1, "accepted")}))))
    assert [row[:3] for row in twin.rows()] == [(1, "sending", 1)]
    assert twin.ask("SELECT FROM calls") == []


def test_a_decision_with_a_bad_reason_is_still_made(twin: PostgresTwin) -> None:
    twin.put(1, State.CLAIMED, 1)
    assert no_letters(settle(twin, decided(1, Move.FREED, 1, "a\0b")))
    assert [row[1] for row in twin.rows()] == ["created"]


@pytest.mark.parametrize(
    ("owner", "name", "right", "wrong"),
    [
        (records, "_halve", "trial(batch[0].value)", "pass"),
        (blame, "ordinary", "reference=ORDINARY", "reference=None"),
    ],
)
def test_mistakes_are_noticed(
    twin: PostgresTwin,
    owner: Any,
    name: str,
    right: str,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace(monkeypatch, owner, name, right, wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_rule_that_ordinary_records_break_makes_a_single_record_wait(twin, RULES[2])
