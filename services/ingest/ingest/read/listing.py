"""The lists of GET: checks their parameters, and returns filters and links to the next page."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from ingest.callers.auth import Caller
from ingest.http.answers import Answer, validation_error
from ingest.http.fields import UUID_FORM, printed, unexpected
from ingest.read import views
from ingest.read.pages import ListFilter

NAMES = ("status", "template_type", "reference", "older_than", "include_jobs")
TEMPLATE_TYPES = ("sms", "email", "letter")
BOOLEANS = ("true", "True", "false", "False")
PARAMETERS_MAX = 200

Parameters = Mapping[str, Sequence[str]]


def parse_query(query: bytes) -> dict[str, list[str]]:
    """Return the parameters of a query string. Bytes that are not UTF-8 become text as well.

    Such text matches no row.
    """
    parameters: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        return {"too many": ["parameters"]}
    for name, value in pairs:
        parameters.setdefault(name, []).append(value)
    return parameters


def choice_faults(name: str, values: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Return an error for each value that is not one of the choices."""
    listed = ", ".join(choices)
    return [
        f"{name} {printed(value)} is not one of [{listed}]"
        for value in values
        if value not in choices
    ]


def check_parameters(parameters: Parameters) -> Answer | None:
    """Return the answer that lists all errors of a list's parameters, or None."""
    faults = choice_faults("status", parameters.get("status", ()), views.STATUSES)
    faults += choice_faults("template_type", parameters.get("template_type", ()), TEMPLATE_TYPES)
    if "\0" in first_value(parameters, "reference", ""):
        faults.append("reference must not contain NUL characters")
    faults += older_than_faults(parameters)
    faults += choice_faults("include_jobs", parameters.get("include_jobs", ())[:1], BOOLEANS)
    faults += unexpected([name for name in parameters if name not in NAMES])
    return validation_error(*faults) if faults else None


def check_older_than(parameters: Parameters) -> Answer | None:
    """Return the answer that lists all errors, for a list whose only parameter is older_than."""
    others = [name for name in parameters if name != "older_than"]
    faults = older_than_faults(parameters) + unexpected(others)
    return validation_error(*faults) if faults else None


def older_than_faults(parameters: Parameters) -> list[str]:
    """Return the error in the id that a page starts after, if there is one."""
    older_than = first_value(parameters, "older_than", None)
    good = older_than is None or UUID_FORM.fullmatch(older_than)
    return [] if good else ["older_than is not a valid UUID"]


def first_value(parameters: Parameters, name: str, default: Any) -> Any:
    """Return the first of a parameter's values, or the default."""
    values = parameters.get(name)
    return values[0] if values else default


def list_filter(parameters: Parameters, caller: Caller) -> ListFilter:
    """Return the filter that the parameters describe, for rows of the caller's key type alone."""
    states = None
    if parameters.get("status"):
        states = frozenset(pair for name in parameters["status"] for pair in views.states(name))
    types = parameters.get("template_type")
    older_than = first_value(parameters, "older_than", None)
    return ListFilter(
        service_id=caller.service.id,
        key_type=caller.key.type,
        states=states,
        channels=frozenset(types) if types else None,
        reference=first_value(parameters, "reference", None),
        older_than=UUID(older_than) if older_than is not None else None,
        with_jobs=first_value(parameters, "include_jobs", "false").lower() == "true",
    )


def links(base: str, parameters: Parameters, last: UUID | None) -> dict[str, str]:
    """Return the URL of this page, and that of the next one if this page has a last row."""
    url = f"{base}/v2/notifications"
    pairs = [(name, value) for name in NAMES for value in parameters.get(name, ())]
    urls = {"current": f"{url}?{urlencode(pairs)}" if pairs else url}
    if last:
        # Clients take the first UUID in the URL for older_than, and a reference may look like one.
        others = [pair for pair in pairs if pair[0] != "older_than"]
        urls["next"] = f"{url}?{urlencode([('older_than', str(last)), *others])}"
    return urls
