"""`make bench`: what the whole stack does on this machine, while nothing else runs on it.

`through`: under a hold everything is accepted and stored and nothing is sent; then the hold is
lifted, and the ledger tells how fast it drained. `latency`: a steady load, from the acceptance to
the provider's booking, by the clock of this machine. Ceilings for each part are not measured yet.
"""

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from rich.console import Console
from rich.table import Table

from courant.topics import Channel
from courant_cli.load import Load, Result, quantile, run, to
from courant_cli.places import variables
from courant_local import control, home, plan, ports
from courant_local.plan import Plan

DRAINED = 20_000
STEADY_RATE, STEADY_SECONDS = 100.0, 20
DRAIN_SECONDS_MAX = 120.0
RESULTS = Path(__file__).with_name("results") / "latest.json"
SERVICES = ("ingest", "saver", "deliverer", "job-runner", "recovery")
console = Console(highlight=False)


@contextmanager
def stack() -> Iterator[Plan]:
    """Run a stack in a folder of its own, its receipts off: their signing would be measured too."""
    with tempfile.TemporaryDirectory(prefix="courant-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ |= {
            "COURANT_HOME": f"{folder}/home",
            "COURANT_PORT_SHIFT": "700",
            "SANDBOX_RECEIPTS_SHARE": "0",
        }
        wanted = plan.make(home.home())
        assert not any(ports.answers(port) for port in wanted.ports.values()), "a port is taken"
        supervisor = control.launch(wanted, tied=True)
        try:
            control.follow(wanted, supervisor, lambda _: None)
            from courant_cli import demo, places  # they read COURANT_HOME

            home.write(wanted.home / "demo.json", demo.seed(places.Places()), mode=0o600)
            time.sleep(2)
            yield wanted
        finally:
            control.stop(wanted.home)


def send(wanted: Plan, count: int, rate: float | None) -> Result:
    """Send a load of emails."""
    known = variables(wanted)
    load = Load(
        url=wanted.url,
        key=known["COURANT_API_KEY"],
        template_id=known["COURANT_EMAIL_TEMPLATE_ID"],
        channel=Channel.EMAIL,
        count=count,
        rate=rate,
        connections=64,
        recipient=to(Channel.EMAIL),
    )
    return asyncio.run(run(load))


def ask(wanted: Plan, sql: str) -> list[tuple[Any, ...]]:
    """Ask Postgres."""
    connection = psycopg2.connect(wanted.database_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def booked(wanted: Plan) -> dict[str, float]:
    """Give when each notification was booked, in epoch seconds."""
    lines = [json.loads(line) for line in wanted.ledger.read_text().splitlines()]
    return {e["notification_id"]: datetime.fromisoformat(e["at"]).timestamp() for e in lines}


def cpu(wanted: Plan) -> dict[str, tuple[float, float]]:
    """Give each process's CPU seconds and MiB of memory so far."""
    found = {}
    for each in control.status(wanted.home):
        process = psutil.Process(each["pid"])
        times = process.cpu_times()
        mib = process.memory_info().rss / 2**20
        found[each["kind"]] = (times.user + times.system, mib)
    return found


def through(wanted: Plan) -> dict[str, Any]:
    """Drain what was accepted under a hold."""
    before = cpu(wanted)
    ask(wanted, "INSERT INTO holds (scope, reason) VALUES ('all', 'bench')")
    result = send(wanted, DRAINED, None)
    assert len(result.ids) == DRAINED, result.told()
    ask(wanted, "UPDATE holds SET stands = false WHERE scope = 'all'")
    until = time.monotonic() + DRAIN_SECONDS_MAX
    wanted_ids = set(result.ids)
    while len(found := [at for id, at in booked(wanted).items() if id in wanted_ids]) < DRAINED:
        assert time.monotonic() < until, f"{len(found)} of {DRAINED} were booked"
        time.sleep(0.5)
    after = cpu(wanted)
    seconds = max(found) - min(found)
    spent = {kind: 1000 * (after[kind][0] - before[kind][0]) / DRAINED for kind in SERVICES}
    return {
        "accepted a second": round(DRAINED / result.seconds),
        "accept p99 ms": result.told()["p99_ms"],
        "sent a second": round(DRAINED / seconds),
        "CPU ms a message": {kind: round(ms, 3) for kind, ms in spent.items()},
        "CPU ms a message, five services": round(sum(spent.values()), 3),
        "RSS MiB": {kind: round(after[kind][1]) for kind in SERVICES},
    }


def latency(wanted: Plan) -> dict[str, Any]:
    """Send at a steady rate, and compare the acceptance with the booking."""
    result = send(wanted, int(STEADY_RATE * STEADY_SECONDS), STEADY_RATE)
    time.sleep(2)
    accepted = {str(id): at for id, at in ask(wanted, "SELECT id, accepted_at FROM notifications")}
    found = booked(wanted)
    waits = [found[id] - accepted[id].timestamp() for id in result.ids]
    return {
        "p50 ms": round(1000 * statistics.median(waits), 1),
        "p99 ms": round(1000 * quantile(waits, 0.99), 1),
        "messages": len(waits),
    }


def machine() -> dict[str, Any]:
    """Say what it was measured on."""
    return {
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> None:
    with stack() as wanted:
        results = {"latency": latency(wanted), "through": through(wanted), "machine": machine()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    drawn = Table("part", "figure", "value", box=None)
    for part, figures in results.items():
        for name, value in figures.items():
            drawn.add_row(part, name, str(value))
    console.print(drawn)


if __name__ == "__main__":
    main()
