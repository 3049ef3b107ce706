"""Schemathesis reads ingest's OpenAPI page and sends valid and invalid data to each operation."""

import time
from collections.abc import Callable
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from hostile import credentials
from hostile.dispatcher import ANSWER_SECONDS, Findings
from hostile.http_request import Dice, HttpRequest
from hostile.target import Target

EXAMPLES = 130
"""Requests for each operation, with valid data and again with invalid data."""
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
BODY_SHOWN = 200  # characters
STRANGERS = 6  # One request of this many has no valid key.


def send_all(target: Target, findings: Findings, seed: int) -> int:
    """Send requests to each operation, and return the number of operations."""
    schema = schemathesis.openapi.from_url(f"{target.stack.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    ask = asker(target, findings, requests.Session(), Dice(seed))
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
    target: Target, findings: Findings, session: requests.Session, dice: Dice
) -> Callable[[Any], None]:
    def ask(case: Any) -> None:
        stranger = dice.once_in(STRANGERS)
        caller = (
            credentials.bad(target, dice) if stranger else credentials.good(target.client, dice)
        )
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
        sent = HttpRequest(case.method, case.formatted_path, dict(headers), body, forged=stranger)
        findings.asked += 1
        findings.known += not stranger
        began = time.monotonic()
        try:
            answer = case.call(session=session, headers=headers, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            findings.note(sent, f"no answer: {error!r}")
            return
        findings.took(time.monotonic() - began)
        kind = answer.headers.get("content-type", [""])[0]
        findings.judge(sent, answer.status_code, kind, answer.content, len(answer.content))
        try:
            case.validate_response(answer, checks=CHECKS)
        except AssertionError as broken:
            findings.note(sent, str(broken))

    return ask
