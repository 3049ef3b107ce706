"""Courant's API answers as the original API did in the recorded examples."""

from typing import Any

import pytest

from support.ingest.recorded import CASES, agrees, placed, request, wanted
from support.ingest.world import BASE, World


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_application_answers_as_recorded(case: dict[str, Any]) -> None:
    answer = World().call(case["method"], placed(case["path"]), **request(case))
    assert answer.status_code == case["status"], answer.text
    assert agrees(wanted(case), answer.json(), BASE), answer.text
