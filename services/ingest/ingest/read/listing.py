"""GET /v2/notifications: its parameters, the rows they choose, the links to the next page."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from ingest.callers.auth import Caller
from ingest.http.answers import Answer, validation_error
from ingest.http.fields import UUID_FORM, printed, unexpected
from ingest.read import views
from ingest.read.store import ListFilter

NAMES = ("status", "template_type", "reference", "older_than", "include_jobs")
TEMPLATE_TYPES = ("sms", "email", "letter")
BOOLEANS = ("true", "True", "false", "False")
PARAMETERS_MAX = 200

Parameters = Mapping[str, Sequence[str]]


def parse_query(query: bytes) -> dict[str, list[str]]:
    """Read a query; of what is no UTF-8 something is left, so that it finds nothing."""
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        return {"too many": ["parameters"]}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def choice_faults(name: str, values: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Say which values are not among those that are allowed."""
    told = ", ".join(allowed)
    return [
        f"{name} {printed(each)} is not one of [{told}]" for each in values if each not in allowed
    ]


def check_parameters(given: Parameters) -> Answer | None:
    """Judge the parameters, all at once."""
    faults = choice_faults("status", given.get("status", ()), views.STATUSES)
    faults += choice_faults("template_type", given.get("template_type", ()), TEMPLATE_TYPES)
    if "\0" in first_value(given, "reference", ""):
        faults.append("reference must not contain NUL characters")
    faults += older_than_faults(given)
    faults += choice_faults("include_jobs", given.get("include_jobs", ())[:1], BOOLEANS)
    faults += unexpected([name for name in given if name not in NAMES])
    return validation_error(*faults) if faults else None


def check_older_than(given: Parameters) -> Answer | None:
    """Judge the parameters of a list that has only this one."""
    faults = older_than_faults(given) + unexpected([name for name in given if name != "older_than"])
    return validation_error(*faults) if faults else None


def older_than_faults(given: Parameters) -> list[str]:
    """Say what is wrong with where a page begins."""
    older_than = first_value(given, "older_than", None)
    good = older_than is None or UUID_FORM.fullmatch(older_than)
    return [] if good else ["older_than is not a valid UUID"]


def first_value(given: Parameters, name: str, default: Any) -> Any:
    """Give the first of a parameter's values."""
    values = given.get(name)
    return values[0] if values else default


def list_filter(given: Parameters, caller: Caller) -> ListFilter:
    """Give what is asked for: of the caller's own key type alone."""
    states = None
    if given.get("status"):
        states = frozenset(pair for name in given["status"] for pair in views.states(name))
    older_than = first_value(given, "older_than", None)
    return ListFilter(
        service_id=caller.service.id,
        key_type=caller.key.type,
        states=states,
        channels=frozenset(given["template_type"]) if given.get("template_type") else None,
        reference=first_value(given, "reference", None),
        older_than=UUID(older_than) if older_than is not None else None,
        with_jobs=first_value(given, "include_jobs", "false").lower() == "true",
    )


def links(base: str, given: Parameters, last: UUID | None) -> dict[str, str]:
    """Give the address of this page and, whenever it has a row, of the next one."""
    address = f"{base}/v2/notifications"
    filters = [(name, each) for name in NAMES for each in given.get(name, ())]
    found = {"current": f"{address}?{urlencode(filters)}" if filters else address}
    if last:
        # Clients take the first UUID that they find for older_than; a reference may look like one.
        others = [pair for pair in filters if pair[0] != "older_than"]
        found["next"] = f"{address}?{urlencode([('older_than', str(last)), *others])}"
    return found
