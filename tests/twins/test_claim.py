"""The claim of the fake store and of PostgreSQL; features that the fake lacks, of that alone."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import pytest
from msgspec import structs
from sqlalchemy import Engine, text

from courant.errors import Unavailable
from courant.lifecycle import State
from courant.postgres.database import array
from courant.testing.builders import NOW, id_of, notification, number_of
from courant.topics import Channel, Lane
from deliverer import store
from deliverer.store import PostgresStore
from support.mistakes import replace
from support.roles import acting
from support.saver import FakeTwin, PostgresTwin
from support.waiting import WAIT_SECONDS

LEASE = timedelta(seconds=6)


class Claims(Protocol):
    """A store that claims rows, with direct access to its tables."""

    def put(self, number: int, state: State, attempt: int) -> None: ...
    def claim(self, *numbers: int) -> dict[int, int]: ...
    def states(self) -> dict[int, str]: ...
    def lock(self, number: int) -> AbstractContextManager[None]: ...
    def age(self, number: int, hours: float) -> None: ...
    def hold(self) -> None: ...
    def lift(self) -> int: ...


class FakeClaims(FakeTwin):
    def claim(self, *numbers: int) -> dict[int, int]:
        claimed = self.store.claim([id_of(number) for number in numbers])
        return {number_of(row.notification.id): row.attempt for row in claimed}

    def states(self) -> dict[int, str]:
        return {number: state for number, state, *_ in self.rows()}

    @contextmanager
    def lock(self, number: int) -> Iterator[None]:
        self.store.locked.add(id_of(number))
        yield
        self.store.locked.clear()

    def age(self, number: int, hours: float) -> None:
        row = self.store.tables.rows[id_of(number)]
        accepted_at = NOW - timedelta(hours=hours)
        aged = structs.replace(row.notification, accepted_at=accepted_at)
        self.store.tables.rows[id_of(number)] = dataclasses.replace(row, notification=aged)

    def hold(self) -> None:
        with self.store.transaction() as tables:
            tables.hold(NOW + timedelta(seconds=1000))

    def lift(self) -> int:
        with self.store.transaction() as tables:
            tables.held = False
        return self.store.tables.epoch


class PostgresClaims(PostgresTwin):
    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.short_lived: dict[tuple[UUID, int], int] = {}
        self.deliverer = PostgresStore(
            acting(engine, "courant_deliverer"), LEASE, lambda: self.short_lived
        )

    def claim(self, *numbers: int) -> dict[int, int]:
        rows = self.deliverer.claim([id_of(n) for n in numbers], Channel.EMAIL, Lane.NORMAL)
        return {number_of(row.id): row.attempt for row in rows}

    def states(self) -> dict[int, str]:
        return {number: state for number, state, *_ in self.rows()}

    @contextmanager
    def lock(self, number: int) -> Iterator[None]:
        with self.engine.begin() as connection:
            sql = text("SELECT FROM notifications WHERE id = :id FOR UPDATE")
            connection.execute(sql, {"id": id_of(number)})
            yield

    def age(self, number: int, hours: float, column: str = "accepted_at") -> None:
        sql = (
            f"UPDATE notifications SET {column} = now() - :hours * interval '1 hour' WHERE id = :id"
        )
        self.ask(sql, hours=hours, id=id_of(number))

    def hold(self, scope: str = "rebuild") -> None:
        self.ask("INSERT INTO holds (scope, reason) VALUES (:scope, 'test')", scope=scope)

    def lift(self) -> int:
        self.ask("UPDATE holds SET stands = false")
        [(epoch,)] = self.ask("SELECT max(epoch) FROM holds")
        assert isinstance(epoch, int)
        return epoch


@pytest.fixture(params=["fake", "postgres"])
def claims(request: pytest.FixtureRequest) -> Claims:
    if request.param == "fake":
        return FakeClaims()
    return PostgresClaims(request.getfixturevalue("engine"))


@pytest.fixture
def real(engine: Engine) -> PostgresClaims:
    return PostgresClaims(engine)


@pytest.mark.parametrize("state", State)
def test_only_waiting_rows_are_claimed(claims: Claims, state: State) -> None:
    claims.put(1, state, attempt=4)
    assert claims.claim(1) == ({1: 5} if state == "created" else {})
    assert claims.states() == {1: "claimed" if state == "created" else str(state)}


def test_a_second_order_claims_nothing(claims: Claims) -> None:
    claims.put(1, State.CREATED, attempt=0)
    assert claims.claim(1) == {1: 1}
    assert claims.claim(1) == {}


def test_an_order_for_a_missing_row_claims_nothing(claims: Claims) -> None:
    claims.put(1, State.CREATED, attempt=0)
    assert claims.claim(1, 2) == {1: 1}


def test_nothing_is_claimed_under_a_hold_and_all_rows_after_it(claims: Claims) -> None:
    claims.put(1, State.CREATED, attempt=0)
    claims.hold()
    with pytest.raises(Unavailable):
        claims.claim(1)
    assert claims.states() == {1: "created"}
    assert claims.lift() > 1
    assert claims.claim(1).keys() == {1}


def test_an_attempt_after_a_hold_is_higher_than_any_before_it(claims: Claims) -> None:
    claims.put(1, State.CREATED, attempt=7)
    claims.hold()
    epoch = claims.lift()
    assert claims.claim(1) == {1: epoch}


def test_a_row_that_another_session_has_locked_does_not_stop_the_others(claims: Claims) -> None:
    for number in (1, 2, 3):
        claims.put(number, State.CREATED, attempt=0)
    with claims.lock(2):
        assert claims.claim(1, 2, 3) == {1: 1, 3: 1}
    assert claims.states() == {1: "claimed", 2: "created", 3: "claimed"}
    assert claims.claim(1, 2, 3) == {2: 1}


@pytest.mark.parametrize(("hours", "claimed"), [(71.9, True), (72.1, False), (18 * 24, False)])
def test_a_row_past_its_time_limit_is_not_claimed(
    claims: Claims, hours: float, claimed: bool
) -> None:
    claims.put(1, State.CREATED, attempt=0)
    claims.put(2, State.CREATED, attempt=0)
    claims.age(1, hours)
    assert claims.claim(1, 2).keys() == ({1, 2} if claimed else {2})


def test_the_time_limit_counts_from_the_scheduled_time(real: PostgresClaims) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.age(1, 90)
    real.age(1, 10, "scheduled_for")
    assert real.claim(1).keys() == {1}


def test_a_templates_own_hours_limit_the_claim(real: PostgresClaims) -> None:
    for number in (1, 2):
        real.put(number, State.CREATED, attempt=0)
        real.age(number, 2)
    real.ask("UPDATE notifications SET template_version = 9 WHERE id = :id", id=id_of(2))
    real.short_lived = {(notification(1).template_id, notification(1).template_version): 1}
    assert real.claim(1, 2).keys() == {2}


@pytest.mark.parametrize(("hours", "claimed"), [(5, True), (80, False)])
def test_an_old_row_of_a_job_that_was_resumed_lately_is_claimed(
    real: PostgresClaims, hours: int, claimed: bool
) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.age(1, 100)
    job = UUID(int=51)
    real.ask("UPDATE notifications SET job_id = :job", job=job)
    real.ask("DELETE FROM wishes")
    sql = "INSERT INTO wishes (job_id, wish, wished_at) VALUES (:job, 'resumed', now() - :ago)"
    real.ask(sql, job=job, ago=timedelta(hours=hours))
    assert bool(real.claim(1)) is claimed


def test_a_row_that_a_sweep_has_locked_for_a_moment_is_claimed(real: PostgresClaims) -> None:
    real.put(1, State.CREATED, attempt=0)
    with ThreadPoolExecutor(1) as pool:
        with real.lock(1):
            claiming = pool.submit(real.claim, 1)
            with pytest.raises(TimeoutError):
                claiming.result(0.15)
        assert claiming.result(WAIT_SECONDS) == {1: 1}


@pytest.mark.parametrize("scope", ["rebuild", "all", "channel:email", "lane:normal"])
def test_a_hold_of_all_the_channel_or_the_lane_stops_the_claim(
    real: PostgresClaims, scope: str
) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.hold(scope)
    with pytest.raises(Unavailable, match=scope):
        real.claim(1)
    assert real.states() == {1: "created"}


@pytest.mark.parametrize("scope", ["channel:sms", "lane:bulk", f"service:{UUID(int=8)}"])
def test_a_hold_of_another_scope_does_not_stop_the_claim(real: PostgresClaims, scope: str) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.hold(scope)
    assert real.claim(1).keys() == {1}


def test_rows_of_a_held_service_are_skipped_and_others_claimed(real: PostgresClaims) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.put(2, State.CREATED, attempt=0)
    real.hold(f"service:{UUID(int=7)}")
    real.ask(
        "UPDATE notifications SET service_id = :id WHERE id = :row", id=UUID(int=9), row=id_of(2)
    )
    assert real.claim(1, 2).keys() == {2}
    assert real.states() == {1: "created", 2: "claimed"}


def test_the_hold_of_jobs_stops_only_the_bulk_lane(
    real: PostgresClaims,
) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.hold("jobs")
    with pytest.raises(Unavailable, match="on hold: jobs"):
        real.deliverer.claim([id_of(1)], Channel.EMAIL, Lane.BULK)
    assert real.claim(1).keys() == {1}


@pytest.mark.parametrize(
    ("wish", "claimed"), [("cancelled", False), ("paused", False), ("resumed", True)]
)
def test_rows_of_a_paused_or_cancelled_job_are_skipped(
    real: PostgresClaims, wish: str, claimed: bool
) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.put(2, State.CREATED, attempt=0)
    job = UUID(int=50)
    real.ask("UPDATE notifications SET job_id = :job WHERE id = :id", job=job, id=id_of(1))
    real.ask("DELETE FROM wishes")
    sql = "INSERT INTO wishes (job_id, wish, wished_at) VALUES (:job, :wish, now())"
    real.ask(sql, job=job, wish=wish)
    assert real.claim(1, 2).keys() == ({1, 2} if claimed else {2})


@pytest.mark.parametrize(("when", "claimed"), [("+ interval '1 min'", False), ("", True)])
def test_rows_not_yet_due_are_not_claimed(real: PostgresClaims, when: str, claimed: bool) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.ask(f"UPDATE notifications SET not_before = now() {when}")
    assert bool(real.claim(1)) is claimed


def test_an_unknown_server_claims_nothing_and_raises_the_hold(
    real: PostgresClaims,
) -> None:
    real.put(1, State.CREATED, attempt=3)
    seen = real.ask("DELETE FROM servers RETURNING id")
    for _ in range(2):  # refused first for the unknown server, then for the hold that it raised
        with pytest.raises(Unavailable):
            real.claim(1)
    assert real.states() == {1: "created"}
    assert real.ask("SELECT scope FROM holds WHERE stands ORDER BY 1") == [("jobs",), ("rebuild",)]
    assert real.ask("SELECT id FROM servers") == seen
    epoch = real.lift()
    assert real.claim(1) == {1: epoch}


def test_a_claim_has_an_event_and_a_lease(real: PostgresClaims) -> None:
    real.put(1, State.CREATED, attempt=0)
    real.claim(1)
    events = real.ask("SELECT attempt, made FROM events WHERE move = 'claimed'")
    assert events == [(1, True)]
    [(lease, since)] = real.ask(
        "SELECT lease_until - state_at = interval '6 s', "
        "state_at > now() - interval '5 min' FROM notifications"
    )
    assert (lease, since) == (True, True)


def test_claimed_rows_come_in_the_order_of_their_ids_with_all_to_send(real: PostgresClaims) -> None:
    for number in (1, 2, 3):
        real.put(number, State.CREATED, attempt=0)
    rows = real.deliverer.claim([id_of(n) for n in (3, 1, 2)], Channel.EMAIL, Lane.NORMAL)
    assert [number_of(row.id) for row in rows] == [3, 1, 2]
    assert [row.sealed for row in rows] == [notification(1).sealed] * 3
    assert {(row.service_id, row.template_version, row.key_type) for row in rows} == {
        (UUID(int=7), 3, "normal")
    }


def test_a_claim_scans_only_its_days_partition(real: PostgresClaims) -> None:
    real.put(1, State.CREATED, attempt=0)
    later = UUID(int=id_of(1).int + (86_400_000 << 80))
    real.store.make_days({(later.int >> 80) // 86_400_000})
    values = {
        "ids": array([id_of(1)]), "lease": LEASE, "scopes": ["all"],
        "templates": array([]), "versions": [], "hours": [],
    }  # fmt: skip
    with real.engine.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN {store.CLAIM}", values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    scanned = {word for word in plan.split() if word.startswith("notifications_")}
    days = {word.split("_")[1] for word in scanned if word.split("_")[1].isdigit()}
    assert days == {str((id_of(1).int >> 80) // 86_400_000)}


Check = Callable[[PostgresClaims], None]


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("AND {state}", "", lambda real: test_only_waiting_rows_are_claimed(real, State.DELIVERED)),
        ("greatest(n.attempt + 1, gate.epoch)", "n.attempt + 1",
         test_an_attempt_after_a_hold_is_higher_than_any_before_it),
        ("AND gate.held IS NULL", "", test_nothing_is_claimed_under_a_hold_and_all_rows_after_it),
        ("gate.known AND", "",
         test_an_unknown_server_claims_nothing_and_raises_the_hold),
        ("AND coalesce(n.not_before <= now(), true)", "",
         lambda real: test_rows_not_yet_due_are_not_claimed(real, "+ interval '1 min'", False)),
        ("AND (coalesce(n.scheduled_for, n.accepted_at) > ", "AND (true OR now() > ",
         lambda real: test_a_row_past_its_time_limit_is_not_claimed(real, 72.1, False)),
    ],
)  # fmt: skip
def test_a_mistake_in_the_claim_is_detected(
    real: PostgresClaims, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, check: Check
) -> None:
    right = right.format(state="n.state IN ('created')")
    replace(monkeypatch, store, "CLAIM", right, wrong)
    with pytest.raises(AssertionError):
        check(real)
