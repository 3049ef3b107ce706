"""Rows that take 50 ms each, under a statement timeout: batches come back smaller and get done."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine

from courant import consume
from courant.backoff import Progress
from courant.errors import Unavailable
from courant.testing.builders import INBOX, notification, outgoing
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.world import World
from saver import handle
from saver.store import PostgresStore
from support.mistakes import replace
from support.saver import PostgresTwin, save
from support.waiting import BUSY_SECONDS

ROWS, ROW_SECONDS, TIMEOUT_SECONDS = 100, 0.05, 1
SLOW = f"""
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep({ROW_SECONDS}); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION slow()"""


@pytest.fixture
def slow(engine: Engine) -> Iterator[PostgresTwin]:
    """A store whose rows take 50 ms each, and whose statements may take a second."""
    twin = PostgresTwin(engine)
    options = {"options": f"-c statement_timeout={TIMEOUT_SECONDS}s"}
    url = engine.url.set(username="courant_saver")
    twin.store = PostgresStore(create_engine(url, connect_args=options), timedelta(seconds=30))
    twin.ask(SLOW)
    yield twin
    twin.ask("DROP TRIGGER slow ON notifications; DROP FUNCTION slow")


class Hasty(FakeConsumer):
    """A consumer that does not rest."""

    def rest(self, delay: timedelta) -> None:
        time.sleep(min(0.05, delay.total_seconds()))


def save_all(twin: PostgresTwin, seconds: float) -> int:
    """Run the saver's stage for at most so long; return how many rows there are then."""
    world = World()
    for number in range(ROWS):
        world.kafka.append(outgoing(notification(number)))
    [stage] = [each for each in handle.stages(twin.store) if INBOX in each.topics]
    consumer = Hasty(world.kafka, stage.group, [INBOX])
    until = time.monotonic() + seconds
    consume.run(
        consumer,
        FakeProducer(world.kafka),
        stage,
        lambda: time.monotonic() > until or consumer.empties > 0,
        lambda: False,
    )
    return len(twin.rows())


def test_all_rows_are_saved_at_nearly_the_disks_pace(slow: PostgresTwin) -> None:
    began = time.monotonic()
    assert save_all(slow, 60 + BUSY_SECONDS) == ROWS
    assert time.monotonic() - began < 4 * ROWS * ROW_SECONDS + BUSY_SECONDS


def test_without_smaller_batches_none_is_saved(
    slow: PostgresTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, Progress, "too_slow", "self.limit = max", "_ = max")
    assert save_all(slow, 4) == 0


def test_one_row_that_is_too_slow_waits(slow: PostgresTwin) -> None:
    slow.ask("CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
             "$$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$")  # fmt: skip
    with pytest.raises(Unavailable, match="57014"):
        save(slow, notification(1))
