"""`make bench`: measures each part beside its ceiling, while nothing else runs.

    python -m bench [part …]

Parts: accept, save, send, drain, latency, jobs. A run of all parts is written to latest.json.
"""

import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from bench import accept, drain, jobs, latency, save, send
from bench.measurements import Measurement, console

PARTS = {
    "accept": accept.measure,
    "save": save.measure,
    "send": send.measure,
    "drain": drain.measure,
    "latency": latency.measure,
    "jobs": jobs.measure,
}
RESULTS = Path(__file__).with_name("results") / "latest.json"


def main(names: list[str]) -> None:
    """Measure these parts, or all of them."""
    # As after Ctrl-C: every started process is stopped, and its folder deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: list[Measurement] = []
    for name in names or PARTS:
        console.print(f"[bold]{name}[/]")
        found += PARTS[name]()
    console.print(drawn(found))
    if not names:
        results = {measurement.name: measurement.summary() for measurement in found} | {
            "machine": machine()
        }
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def drawn(measurements: list[Measurement]) -> Table:
    """Return the table of results."""
    table = Table("part", "ours", "ceiling", "ratio", "unit", "aim", box=None)
    for measurement in measurements:
        ceiling = "–" if measurement.ceiling is None else f"{measurement.ceiling:,}"
        table.add_row(
            measurement.name,
            f"{measurement.ours:,}",
            ceiling,
            str(measurement.ratio or "–"),
            measurement.unit,
            measurement.aim,
        )
    return table


def machine() -> dict[str, Any]:
    """Describe the machine of the measurement."""
    return {
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
