"""Provider faults under load: errors, throttling, slow or lost answers, repeated receipts."""

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
    ids=["always-500", "throttling", "slow-answers", "lost-answers", "repeated-receipts"],
)
def test_a_provider_fault_loses_nothing_and_causes_no_second_send(
    site: Site, orders: dict[str, Any]
) -> None:
    with site.load(50, SECONDS + 10) as result:
        time.sleep(2)
        site.order(**orders)
        time.sleep(SECONDS)
        site.order(**dict.fromkeys(orders))
    found = site.ask(result)
    assert found.wrong() == {}
    # The receipt gives the outcome of a lost answer. No fault here is a reason to send again.
    assert found.explained == set()
    assert set(result.statuses) == {201}
