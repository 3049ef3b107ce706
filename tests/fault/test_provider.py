"""What a provider may do under load: refuse, throttle, dawdle, lose its answers, tell twice."""

import time
from typing import Any

import pytest

from fault.site import Site

SECONDS = 20


@pytest.mark.parametrize(
    "orders",
    [
        {"error": {"code": "InternalServiceErrorException"}},
        {"throttle_share": 0.3},
        {"latency_seconds": 5},
        {"lose_answer": {"form": "half-body", "share": 0.3}},
        {"events": {"double": True, "shuffle": True, "delay_seconds": 0.2}},
    ],
    ids=["500-to-all", "throttles", "5-s-an-answer", "loses-answers", "receipts-twice-and-stray"],
)
def test_a_provider(site: Site, orders: dict[str, Any]) -> None:
    with site.load(50, SECONDS + 10) as result:
        time.sleep(2)
        site.order(**orders)
        time.sleep(SECONDS)
        site.order(**dict.fromkeys(orders))
    found = site.ask(result)
    assert found.wrong() == {}
    # A lost answer is known by its receipt: none of these is a reason to send again.
    assert found.explained == set()
    assert set(result.statuses) == {201}
