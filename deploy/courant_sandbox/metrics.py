"""The sandbox's metrics. Each help text names where to look next."""

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry()

calls = Counter(
    "courant_sandbox_calls_total",
    "Provider calls by how they ended; GET /_control shows which faults are set.",
    ["api", "answer"],
    registry=REGISTRY,
)
booked = Counter(
    "courant_sandbox_booked_total",
    "Messages in the ledger since the start; GET /ledger lists them.",
    ["channel"],
    registry=REGISTRY,
)
calls_in_progress = Gauge(
    "courant_sandbox_calls_in_progress",
    "Calls not answered yet; GET /calls names their notifications.",
    registry=REGISTRY,
)
receipts = Counter(
    "courant_sandbox_receipts_total",
    "Receipts by what became of a post: taken, refused (4xx, gone), again (is retried), "
    "given-up, dropped (by order); the receiver's log says why.",
    ["end"],
    registry=REGISTRY,
)
receipts_waiting = Gauge(
    "courant_sandbox_receipts_waiting",
    "Messages read from the ledger whose receipts are not all taken; more may wait in the file.",
    registry=REGISTRY,
)
