"""Recorded answers of the API that clients know, and the comparison of ours with them."""

import json
import re
from pathlib import Path
from typing import Any

from courant.contracts import KeyType
from support.ingest.world import (
    EMAIL_TEMPLATE,
    NUMBERS,
    SERVICE,
    SMS_TEMPLATE,
    api_key,
    secret_of,
    token,
)

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "contract" / "examples" / "answers.json").read_text()
)
PLACES = {
    "<email template>": str(EMAIL_TEMPLATE),
    "<sms template>": str(SMS_TEMPLATE),
    "<service>": str(SERVICE),
}
SHAPES = {
    "<uuid>": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "<time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "<email>": r".+",  # the author of a template, who has no address here
    "<html of the body>": r"<p>.*</p>",
}
# The recording left the credentials out.
AUTHORIZATIONS = {
    "auth: other scheme": "Basic eDp5",
    "auth: scheme alone": "Bearer",
    "auth: api key secret alone": f"ApiKey-v1 {secret_of(1)}",
    "auth: api key unknown": f"ApiKey-v1 {api_key(99)}",
    "auth: api key without prefix": f"ApiKey-v1 {api_key(1).removeprefix('gcntfy-')}",
}
# An entry that was never changed has no time of a change.
NEVER_CHANGED = {"get: template": {"updated_at": None}}


def placed(value: Any) -> Any:
    """Return a recorded value with our ids in its placeholders."""
    if isinstance(value, dict):
        return {name: placed(each) for name, each in value.items()}
    if isinstance(value, list):
        return [placed(each) for each in value]
    if isinstance(value, str):
        for place, ours in PLACES.items():
            value = value.replace(place, ours)
    return value


def request(case: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the request."""
    if name := AUTHORIZATIONS.get(case["name"]):
        headers = {"authorization": name}
    else:
        number = NUMBERS[KeyType(case.get("key", "normal"))]
        headers = {"authorization": f"Bearer {token(number)}"}
    told: dict[str, Any] = {"headers": headers}
    if "raw" in case:
        headers["content-type"] = case["content_type"]
        told["content"] = case["raw"]
    elif case["method"] == "POST":
        told["json"] = placed(case.get("body"))
    return told


def agrees(wanted: Any, found: Any, base: str) -> bool:
    """Return whether an answer is the recorded one, apart from ids and times."""
    if isinstance(wanted, dict):
        same = isinstance(found, dict) and list(wanted) == list(found)
        return same and all(agrees(wanted[name], found[name], base) for name in wanted)
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(wanted) == len(found)
        return same and all(map(agrees, wanted, found, [base] * len(wanted)))
    if not isinstance(wanted, str):
        return type(wanted) is type(found) and wanted == found
    pattern = re.escape(wanted.replace("<base>", base))
    for place, shape in SHAPES.items():
        pattern = pattern.replace(re.escape(place), shape)
    return isinstance(found, str) and re.fullmatch(pattern, found) is not None


def wanted(case: dict[str, Any]) -> Any:
    return placed({**case["response"], **NEVER_CHANGED.get(case["name"], {})})
