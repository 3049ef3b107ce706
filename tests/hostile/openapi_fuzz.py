"""Schemathesis reads ingest's OpenAPI page and sends valid and invalid data to each operation."""

import time
from collections.abc import Callable
from typing import Any

import hypothesis
import requests
import schemathesis
from hostile.asks import Ask, Dice
from hostile.crowd import ANSWER_SECONDS, Tally
from hostile.place import Place
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from hostile import callers

EXAMPLES = 130
"""Requests for each operation, with valid data and again with invalid data."""
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
BODY_SHOWN = 200  # characters
STRANGERS = 6  # One request of this many has no valid key.


def ask_all(place: Place, tally: Tally, seed: int) -> int:
    """Send requests to each operation, and return the number of operations."""
    schema = schemathesis.openapi.from_url(f"{place.stack.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    ask = asker(place, tally, requests.Session(), Dice(seed))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            run(strategy, ask, seed)
    return len(operations)


def run(strategy: Any, ask: Callable[[Any], None], seed: int) -> None:
    """Call `ask` with EXAMPLES cases from the strategy."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES, database=None, deadline=None,
        phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def ask_case(case: Any) -> None:
        ask(case)

    ask_case()


def asker(
    place: Place, tally: Tally, session: requests.Session, dice: Dice
) -> Callable[[Any], None]:
    def ask(case: Any) -> None:
        stranger = dice.once_in(STRANGERS)
        caller = callers.bad(place, dice) if stranger else callers.good(place.client, dice)
        # `requests` refuses to send the other headers. The suite's own requests send them.
        headers = {
            name: value for name, value in caller.items() if value.isascii() and value.strip()
        }
        case.headers = {
            name: value
            for name, value in (case.headers or {}).items()
            if name.lower() != "authorization"
        }
        case.cookies = {}
        body = str(case.body)[:BODY_SHOWN].encode()
        sent = Ask(case.method, case.formatted_path, dict(headers), body, forged=stranger)
        tally.asked += 1
        tally.known += not stranger
        began = time.monotonic()
        try:
            answer = case.call(session=session, headers=headers, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            tally.note(sent, f"no answer: {error!r}")
            return
        tally.took(time.monotonic() - began)
        kind = answer.headers.get("content-type", [""])[0]
        tally.judge(sent, answer.status_code, kind, answer.content, len(answer.content))
        try:
            case.validate_response(answer, checks=CHECKS)
        except AssertionError as broken:
            tally.note(sent, str(broken))

    return ask
