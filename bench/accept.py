"""Accepting: ingest with every check, beside a raw ASGI application on the same server."""

import json
import time

import jwt
import psutil

from bench.load import Answered, load, post
from bench.measurements import Measurement, beside, interleaved, middle
from bench.stack import BenchStack, bench_stack, cpu_seconds
from courant.directory.entries import Template

REQUESTS = 20_000
WARM_UP = 2_000
PATH = "/v2/notifications/email"
RAW = "bench.ceilings.raw_asgi"
AIM = "≥ 0.6, ≥ 3,000"


def measure() -> list[Measurement]:
    """Measure both kinds of API key and the ceiling."""
    with bench_stack() as stack, stack.serving(RAW) as raw, stack.running("ingest") as services:
        ingest = stack.plan.port("ingest"), services["ingest"]
        sides = {
            "raw ASGI": Side(stack, raw),
            "JWT": Side(stack, ingest, "JWT"),
            "ApiKey": Side(stack, ingest, "ApiKey"),
        }
        for each in sides.values():
            each.warm_up()
        found = interleaved({name: each.rate for name, each in sides.items()})
    return [
        beside(f"accept {kind}", "requests/s", AIM, found[kind], found["raw ASGI"],
               **sides[kind].more(), ceiling_cpu_us=sides["raw ASGI"].more()["cpu_us"])
        for kind in ("JWT", "ApiKey")
    ]  # fmt: skip


class Side:
    """One server with one kind of API key, and the figures of its rounds."""

    def __init__(
        self, stack: BenchStack, server: tuple[int, psutil.Process], kind: str = "ApiKey"
    ) -> None:
        self._stack, self._kind = stack, kind
        self._port, self._process = server
        self._p99s_ms: list[float] = []
        self._cpus_us: list[float] = []

    def warm_up(self) -> None:
        """Send a few requests first."""
        load(self._port, email(self._stack, self._kind), WARM_UP)

    def rate(self) -> float:
        """Measure one round; return requests per second."""
        before = cpu_seconds(self._process)
        answered: Answered = load(self._port, email(self._stack, self._kind), REQUESTS)
        self._cpus_us.append(1e6 * (cpu_seconds(self._process) - before) / REQUESTS)
        self._p99s_ms.append(answered.p99_ms())
        return answered.rate

    def more(self) -> dict[str, float]:
        """Return the 99th percentile of the latency and the server's CPU time for a request."""
        return {"p99_ms": middle(self._p99s_ms, 1), "cpu_us": middle(self._cpus_us)}


def email(stack: BenchStack, kind: str) -> bytes:
    """Return the request of one email. A JWT is valid for 30 seconds, an API key for ever."""
    authorization = f"ApiKey-v1 {stack.key}"
    if kind == "JWT":
        claims = {"iss": str(stack.service.id), "iat": int(time.time())}
        authorization = "Bearer " + jwt.encode(claims, stack.key[-36:], "HS256")
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    return post(PATH, asked(stack.personal), headers)


def asked(template: Template) -> bytes:
    """Return the body of one request."""
    return json.dumps(
        {
            "email_address": "someone@example.com",
            "template_id": str(template.id),
            "personalisation": {"name": "Ada"},
            "reference": "r-1",
        }
    ).encode()
