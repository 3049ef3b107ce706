"""F30: rows that a forgotten session keeps locked stop nobody else's."""

import time
from contextlib import closing

import psycopg2
import pytest

from courant.lifecycle import State
from fault.harness import Harness
from support.waiting import wait

STATES = (State.CREATED, State.CLAIMED, State.SENDING, State.DELIVERED)
ONE = "SELECT id FROM notifications WHERE state = %s LIMIT 1 FOR UPDATE SKIP LOCKED"


@pytest.mark.parametrize("seconds", [30, 90])
def test_one_row_of_each_state_is_locked_and_the_others_go_on(
    harness: Harness, seconds: int
) -> None:
    harness.configure_sandbox(latency_seconds=0.5)
    locked: set[str] = set()
    with harness.load(10, seconds) as result:
        with closing(psycopg2.connect(harness.stack.plan.database_url)) as session:
            cursor = session.cursor()

            def take(state: State) -> bool:
                cursor.execute(ONE, [state])
                locked.update(str(id) for (id,) in cursor)
                return bool(cursor.rowcount)

            for state in STATES:
                wait(lambda state=state: take(state), f"a row is {state}")  # type: ignore[misc]
            began = time.monotonic()
            while time.monotonic() - began < seconds - 10:
                time.sleep(1)
            others = set(list(result.ids)[: len(result.ids) // 2]) - locked
            sent = set(harness.stack.sendings())
            states = dict(harness.stack.sql("SELECT id::text, state FROM notifications"))
            waiting = {id for id in others if states[id] != "delivered"}
        assert others
        assert others <= sent
        assert not waiting
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert findings.explained == set()
    names = harness.stack.plan.log("saver-1").read_text()
    assert "another session keeps rows locked" in names
