"""F29: a column that does not match the code for a while, as in a deployment in the wrong order."""

import time
from collections.abc import Sequence

import pytest

from courant.postgres.tables import events, notifications
from courant_cli import dead
from fault.harness import Harness

COLUMNS = [(table.name, column.name) for table in (notifications, events) for column in table.c]
FEW = [
    ("notifications", "reference"),
    ("notifications", "attempt"),
    ("notifications", "message_id"),
    ("events", "reason"),
]
SECONDS = 4
RATE = 10


@pytest.mark.parametrize("columns", [FEW, COLUMNS], ids=["few", "all"])
def test_a_renamed_column_makes_records_wait_and_nothing_else(
    harness: Harness, columns: Sequence[tuple[str, str]]
) -> None:
    with harness.load(RATE, 4 + len(columns) * (SECONDS + 2)) as result:
        time.sleep(2)
        for table, column in columns:
            harness.stack.sql(f"ALTER TABLE {table} RENAME COLUMN {column} TO elsewhere")
            try:
                time.sleep(SECONDS)
            finally:
                harness.stack.sql(f"ALTER TABLE {table} RENAME COLUMN elsewhere TO {column}")
            time.sleep(2)
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert list(dead.letters(harness.stack.installation)) == []
    assert set(result.statuses) == {201}
