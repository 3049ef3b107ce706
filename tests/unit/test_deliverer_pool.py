"""One provider call, made within its lease."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from courant.contracts import KeyType
from courant.testing.builders import NOW, id_of
from deliverer.calls import (
    Accepted,
    Call,
    CallEntry,
    ClaimedRow,
    ProviderOutcome,
    RenderedEmail,
    Unknown,
)
from deliverer.pool import Lease, make_call
from support.deliverer import SECOND


def entries(*numbers: int) -> tuple[CallEntry, ...]:
    rows = [ClaimedRow(id_of(n), 1, 0, UUID(int=7), KeyType.NORMAL, UUID(int=9), 1, None, b"", NOW)
            for n in numbers]  # fmt: skip
    mail = RenderedEmail("subject", "text", "html", "{}")
    return tuple(CallEntry(row, "us@example.ca", None, "a@example.org", mail, 1000) for row in rows)


class ShortProvider:
    """Returns one outcome too few."""

    name = "short"
    calls = 0

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        self.calls += 1
        return [Accepted("m")] * (len(call.entries) - 1)


def test_too_few_outcomes_make_all_entries_unknown() -> None:
    call = Call(UUID(int=1), entries(1, 2))
    outcomes = make_call(ShortProvider(), call, Lease(SECOND, age=lambda: 0), timedelta())
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]


@pytest.mark.parametrize(("age", "calls"), [(7.9, 1), (8.1, 0), (11.0, 0)])
def test_a_call_is_made_only_if_the_lease_covers_all_of_it(age: float, calls: int) -> None:
    provider = ShortProvider()
    lease = Lease(10 * SECOND, age=lambda: age)
    outcomes = make_call(provider, Call(UUID(int=1), entries(1, 2)), lease, 2 * SECOND)
    assert (provider.calls, bool(outcomes)) == (calls, bool(calls))
