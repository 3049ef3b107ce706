"""How a stage eases off while a fault lasts, and what its health port says meanwhile."""

import logging
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from courant import consume, serve
from courant.backoff import QUIET_SECONDS, STUCK_SECONDS, Progress
from courant.errors import TooSlow, Unavailable, Unfit
from courant.records import Keep
from courant.testing.builders import INBOX, notification, outgoing
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.world import World
from support.mistakes import replace

SECONDS = 337.0
"""How long the fault of the field test lasted: it logged 1,337 lines."""


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Resting(FakeConsumer):
    """A consumer whose rests take time, and whose first poll after one returns nothing."""

    def __init__(self, world: World, clock: Clock) -> None:
        super().__init__(world.kafka, "group", [INBOX])
        self.clock, self.fetching = clock, False

    def rest(self, delay: Any) -> None:
        super().rest(delay)
        self.clock.seconds += delay.total_seconds()
        self.fetching = True

    def poll(self, limit: int) -> Sequence[Any]:
        self.clock.seconds += 0.25
        if self.fetching:
            self.fetching = False
            return ()
        return super().poll(limit)


def stage(handle: Any, limit: int = 500) -> consume.Stage[Any]:
    return consume.Stage("group", (INBOX,), lambda r: Keep(r, r), handle, limit=limit)


def fail_for(seconds: float) -> list[str]:
    """Run a stage whose batch fails for so long, then succeeds; return what it logs."""
    world, clock = World(), Clock()
    world.kafka.append(outgoing(notification(1)))
    progress = Progress("group", 500, clock)
    consumer = Resting(world, clock)
    until, handled = clock() + seconds, []

    def handle(batch: Any) -> Any:
        if clock() < until:
            raise Unavailable("away")
        handled.append(batch)
        yield []

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("courant.backoff")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        consume.run(
            consumer,
            FakeProducer(world.kafka),
            stage(handle),
            lambda: bool(handled) and consumer.empties > 0,
            lambda: False,
            progress,
        )
    finally:
        logger.removeHandler(handler)
    return lines


def test_a_fault_of_minutes_has_a_few_lines_and_one_at_its_end() -> None:
    lines = fail_for(SECONDS)
    assert 4 <= len(lines) <= 8, lines
    assert set(lines[:-1]) == {"dependency unavailable, retrying"}
    assert lines[-1] == "dependency available again"


def test_a_poll_that_resets_the_delay_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, Progress, "idle", "> QUIET_SECONDS", "> 0.0")
    assert len(fail_for(SECONDS)) > 100


def test_a_fault_that_left_nothing_to_do_ends_after_a_quiet_while() -> None:
    clock = Clock()
    progress = Progress("group", 10, clock)
    first, later = progress.failed(Unavailable("away")), progress.failed(Unavailable("away"))
    assert later > first / 2
    clock.seconds += QUIET_SECONDS + 1
    progress.idle()
    assert progress.failed(Unavailable("away")) <= 2 * first


def test_a_database_that_does_not_fit_is_an_error_with_its_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Progress("group").failed(Unfit("42703: UndefinedColumn"))
    [line] = caplog.records
    assert line.levelname == "ERROR"
    assert line.__dict__["runbook"].startswith("docs/runbooks/database.md")


def test_a_batch_that_is_too_slow_comes_back_smaller_and_grows_again() -> None:
    world = World()
    for number in range(200):
        world.kafka.append(outgoing(notification(number)))
    sizes: list[int] = []

    def handle(batch: Any) -> Any:
        sizes.append(len(batch.kept))
        if len(batch.kept) > 20:
            raise TooSlow("57014")
        yield []

    consumer = FakeConsumer(world.kafka, "group", [INBOX])
    consume.run(consumer, FakeProducer(world.kafka), stage(handle), lambda: consumer.empties > 0)
    assert sizes[:5] == [200, 100, 50, 25, 12]
    assert sum(size for size in sizes if size <= 20) == 200
    assert max(size for size in sizes[5:] if size <= 20) > 12
    assert sum(size > 20 for size in sizes[5:]) <= 2


def test_a_batch_of_one_stays_one() -> None:
    progress = Progress("group", 500)
    for _ in range(20):
        progress.too_slow(progress.limit)
    assert progress.limit == 1
    for _ in range(100):
        progress.handled()
    assert progress.limit == 500


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    monkeypatch.setattr(serve, "LOOPS", [])
    return serve.LOOPS


def answers(path: str) -> tuple[int, Any]:
    server = serve.health("127.0.0.1", 0, lambda: None)
    try:
        answer = httpx2.get(f"http://127.0.0.1:{server.server_port}{path}", timeout=30)
        return answer.status_code, answer.json()
    finally:
        server.shutdown()
        server.server_close()


def test_a_loop_that_does_not_turn_for_five_minutes_is_not_alive(loops: list[Progress]) -> None:
    clock = Clock()
    loops += [Progress("saver.receipts"), Progress("saver.delivery", 1, clock)]
    clock.seconds += STUCK_SECONDS - 1
    assert answers("/healthz")[0] == answers("/readyz")[0] == 200
    clock.seconds += 2
    stuck = (503, {"reason": "saver.delivery has not turned for 301 s"})
    assert answers("/healthz") == answers("/readyz") == stuck
    loops[1].turn()
    assert answers("/healthz")[0] == answers("/readyz")[0] == 200


def test_a_stage_that_waits_for_acknowledgements_says_for_which_topics(
    loops: list[Progress], caplog: pytest.LogCaptureFixture
) -> None:
    clock, world = Clock(), World()
    progress = Progress("deliverer.persisted.email.normal", 1, clock)
    loops.append(progress)
    seen: list[Any] = []

    class Deaf(FakeProducer):
        def flush(self) -> None:
            if len(seen) < 20:
                seen.append(0)
                raise Unavailable("1 records not acknowledged: no answer yet; topics: receipts")
            super().flush()

    class Looking(Resting):
        def rest(self, delay: Any) -> None:
            super().rest(delay)
            if len(seen) == 10:
                seen.append(answers("/readyz"))

    consumer = Looking(world, clock)
    consume.write(consumer, Deaf(world.kafka), [outgoing(notification(1))], progress)
    [(status, body)] = [each for each in seen if each]
    assert status == 503
    assert "topics: receipts" in body["reason"]
    # It rests, so it turns: a process that ended would lose the outcomes that it knows.
    assert (answers("/healthz")[0], answers("/readyz")[0]) == (200, 200)
    lines = [each for each in caplog.records if each.levelname == "WARNING"]
    assert 4 <= len(lines) <= 6
    assert "topics: receipts" in lines[0].__dict__["reason"]
