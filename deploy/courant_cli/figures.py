"""Reads the one line of live figures from every service's /metrics, and sums it."""

import http.client
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from courant_local import control, ports
from courant_local.plan import Plan
from courant_local.processes import SERVICES

ANSWER_SECONDS = 1
BACKLOG = "courant_mark_passed_age_seconds"
MOVES = ("saved", "sent", "delivered")


def line(plan: Plan) -> str:
    """Return the line: counts since the processes started, the lag, the services that are up."""
    samples = list(scraped(plan))
    found = control.status(plan.home)
    ready = sum(process["state"] == "ready" for process in found)
    backlog = max((sample.value for sample in samples if sample.name == BACKLOG), default=0.0)
    told = [f"{name} {number:,.0f}" for name, number in counted(samples).items()]
    return " · ".join([*told, f"behind {backlog:.1f} s", f"{ready} of {len(found)} ready"])


def counted(samples: Iterable[Sample]) -> dict[str, float]:
    """Sum requests answered with 201, and moves, over all processes."""
    sums: dict[str, float] = defaultdict(float)
    for sample in samples:
        if sample.name == "courant_requests_total" and sample.labels["status"] == "201":
            sums["accepted"] += sample.value
        elif sample.name == "courant_moves_total":
            sums[sample.labels["move"]] += sample.value
    return {name: sums[name] for name in ("accepted", *MOVES)}


def scraped(plan: Plan) -> Iterator[Sample]:
    """Yield every sample of every service that answers."""
    for service in SERVICES:
        for instance in range(1, plan.instances(service.kind) + 1):
            for family in text_string_to_metric_families(_metrics(plan, service.kind, instance)):
                yield from family.samples


def _metrics(plan: Plan, kind: str, instance: int) -> str:
    connection = http.client.HTTPConnection(
        ports.HOST, plan.health_port(kind, instance), timeout=ANSWER_SECONDS
    )
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""  # a service that is down is missing from the count of those that are ready
    finally:
        connection.close()
