"""Which request a key stands for, from values alone."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from courant.idempotency import REMEMBERED, Holder, Loser, confirm, judge

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def request(number: int, hours: float, body: bytes = b"body") -> Holder:
    at = NOW + timedelta(hours=hours)
    return Holder(UUID(int=number), body, at, at)


def read(requests: Iterable[Holder], movable: bool = True) -> tuple[list[Holder], list[Loser]]:
    """Judge requests one after another; return the holders, and all that lost."""
    holders: list[Holder] = []
    lost: list[Loser] = []
    for each in requests:
        ids = {each.id for each in holders} if movable else set()
        holders, losers = judge(holders, each, ids)
        lost += losers
    return holders, lost


def sent(requests: Sequence[Holder]) -> int:
    """Return how many of the requests are no repetitions, by their times."""
    count, over = 0, NOW - timedelta(days=999)
    for each in sorted(requests, key=lambda each: each.at):
        if each.at >= over:
            count, over = count + 1, each.at + timedelta(hours=48)
    return count


HOUR = st.integers(0, 9_000).map(lambda minutes: minutes / 60)
HOURS = st.lists(HOUR, min_size=1, max_size=3, unique=True)


@given(HOURS)
def test_the_order_of_reading_does_not_change_how_many_are_sent(hours: list[float]) -> None:
    requests = [request(number, each) for number, each in enumerate(hours)]
    for order in permutations(requests):
        assert len(read(order)[0]) == sent(requests)


@given(HOUR, st.booleans())
def test_of_two_requests_the_earlier_one_stands_in_any_order(hours: float, same: bool) -> None:
    first, second = request(1, 0), request(2, hours, b"body" if same else b"another")
    lost = [] if hours >= 48 else [(UUID(int=2), UUID(int=1), same)]
    for order in ([first, second], [second, first]):
        assert [(each.id, each.winner, each.same_body) for each in read(order)[1]] == lost


def test_48_hours_after_its_acceptance_a_key_is_free() -> None:
    assert len(read([request(1, 0), request(2, 47.999)])[0]) == 1
    assert len(read([request(1, 0), request(2, 48)])[0]) == 2


def test_what_was_sent_keeps_the_key_and_the_earlier_one_is_late() -> None:
    holders, [lost] = read([request(2, 1), request(1, 0)], movable=False)
    assert lost == Loser(UUID(int=1), UUID(int=2), same_body=True, late=True)
    assert [(each.id, each.at) for each in holders] == [(UUID(int=2), NOW)]
    holders, [lost] = read([request(1, 0), request(2, 1)], movable=False)
    assert lost == Loser(UUID(int=2), UUID(int=1), same_body=True, late=False)


def test_a_holder_that_is_read_again_loses_nothing() -> None:
    holders, _ = read([request(1, 0), request(2, 96)])
    for each in holders:
        assert judge(holders, each, {each.id for each in holders}) == (holders, [])


def test_earlier_holders_are_forgotten_once_the_log_cannot_bring_their_repetitions() -> None:
    days = REMEMBERED / timedelta(hours=1)
    assert len(read([request(1, 0), request(2, days - 1)])[0]) == 2
    assert [each.id for each in read([request(1, 0), request(2, days)])[0]] == [UUID(int=2)]


def test_a_confirmed_winner_replaces_the_loser() -> None:
    holders, _ = read([request(1, 0), request(2, 1)])
    [winner] = confirm(holders, request(2, 1), UUID(int=1))
    assert (winner.id, winner.at) == (UUID(int=2), NOW)
