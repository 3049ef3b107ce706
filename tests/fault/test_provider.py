"""Provider faults under load: errors, throttling, slow or lost answers, repeated receipts."""

import time
from typing import Any

import pytest

from fault.harness import Harness

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
    harness: Harness, orders: dict[str, Any]
) -> None:
    with harness.load(50, SECONDS + 10) as result:
        time.sleep(2)
        harness.configure_sandbox(**orders)
        time.sleep(SECONDS)
        harness.configure_sandbox(**dict.fromkeys(orders))
    findings = harness.check(result)
    assert findings.wrong() == {}
    # The receipt gives the outcome of a lost answer. No fault here is a reason to send again.
    assert findings.explained == set()
    assert set(result.statuses) == {201}
