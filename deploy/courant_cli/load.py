"""`courant load`: sends a bounded load of real requests and counts the answers.

It retries a request only if the connection was refused or broke before the request was answered. A
503 means that nobody knows whether the notification was accepted, so its id is not counted.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from courant.topics import Channel
from courant_cli.installation import Installation

console = Console(highlight=False)
COUNT_MAX, RATE_MAX, CONNECTIONS_MAX = 1_000_000, 20_000, 512
ANSWER_SECONDS = 30.0
RETRY_SECONDS, RETRIES_MAX = 0.2, 300


@dataclass
class Load:
    """The load to send."""

    url: str
    key: str
    template_id: str
    channel: Channel
    count: int
    rate: float | None  # requests a second; None: as fast as the connections allow
    connections: int
    recipient: Callable[[int], str]


@dataclass
class Result:
    """The answers to a load. Latencies are in seconds, of answered requests."""

    ids: list[str] = field(default_factory=list)  # of requests that were answered 201
    statuses: Counter[int] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0  # the connection broke after the request was sent: outcome unknown
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return the summary for programs."""
        return {
            "accepted": len(self.ids),
            "statuses": dict(self.statuses),
            "retried": dict(self.retried),
            "unanswered": self.unanswered,
            "seconds": round(self.seconds, 3),
            "rate": round(len(self.ids) / self.seconds, 1) if self.seconds else 0,
            "p50_ms": round(1000 * quantile(self.latencies, 0.5), 1),
            "p99_ms": round(1000 * quantile(self.latencies, 0.99), 1),
            "max_ms": round(1000 * max(self.latencies, default=0), 1),
        }


def quantile(values: list[float], part: float) -> float:
    """Return the value that the share `part` of all values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def to(channel: Channel) -> Callable[[int], str]:
    """Yield one recipient for each number."""
    if channel is Channel.EMAIL:
        return lambda number: f"load-{number}@example.com"
    return lambda number: f"+1613555{number % 10_000:04d}"


async def run(
    load: Load, told: Callable[[int], None] = lambda _: None, result: Result | None = None
) -> Result:
    """Send the load and return when every request has its answer.

    A caller that passes `result` can read it meanwhile.
    """
    result, began = result or Result(), time.monotonic()
    numbers = iter(range(load.count))
    connector = aiohttp.TCPConnector(limit=load.connections)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    headers = {"Authorization": f"ApiKey-v1 {load.key}"}
    async with aiohttp.ClientSession(
        load.url, connector=connector, timeout=timeout, headers=headers
    ) as session:

        async def work() -> None:
            for number in numbers:
                if load.rate:
                    await asyncio.sleep(max(0, began + number / load.rate - time.monotonic()))
                await send(session, load, number, result)
                told(1)

        await asyncio.gather(*(work() for _ in range(load.connections)))
    result.seconds = time.monotonic() - began
    return result


async def send(session: aiohttp.ClientSession, load: Load, number: int, result: Result) -> None:
    """Send one request, and retry while its connection is refused."""
    field = "email_address" if load.channel is Channel.EMAIL else "phone_number"
    body = {
        "template_id": load.template_id,
        field: load.recipient(number),
        "personalisation": {"name": f"number {number}"},
    }
    path = f"/v2/notifications/{load.channel}"
    for _ in range(RETRIES_MAX):
        began = time.monotonic()
        try:
            async with session.post(path, json=body) as answer:
                said = await answer.json()
                result.statuses[answer.status] += 1
                result.latencies.append(time.monotonic() - began)
                if answer.status == 201:
                    result.ids.append(said["id"])
                return
        except aiohttp.ClientConnectorError as error:
            result.retried[type(error).__name__] += 1
            await asyncio.sleep(RETRY_SECONDS)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            result.unanswered += 1
            return
    result.unanswered += 1


def load(
    rate: Annotated[
        float, typer.Option(min=0, max=RATE_MAX, help="Requests a second. 0 means no limit.")
    ] = 150,
    count: Annotated[int, typer.Option(min=1, max=COUNT_MAX)] = 1500,
    channel: Channel = Channel.EMAIL,
    template: Annotated[
        str | None, typer.Option(help="The template's id. By default the demo's.")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=CONNECTIONS_MAX)] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    ids: Annotated[
        Path | None, typer.Option(help="Write the ids of accepted notifications to this file.")
    ] = None,
) -> None:
    """Send a bounded load through the HTTP API and show the answers.

    Example: courant load --count 10000 --rate 500
    """
    installation = Installation()
    asked = Load(
        url=installation.variable("COURANT_URL"),
        key=installation.variable("COURANT_API_KEY"),
        template_id=template or installation.variable(f"COURANT_{channel.upper()}_TEMPLATE_ID"),
        channel=channel,
        count=count,
        rate=rate or None,
        connections=connections,
        recipient=to(channel),
    )
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json) as progress:
        shown = progress.add_task("", total=count)
        result = asyncio.run(run(asked, lambda n: progress.advance(shown, n)))
    if ids:
        ids.write_text("".join(f"{each}\n" for each in result.ids))
    if as_json:
        print(json.dumps(result.summary()))
        return
    for name, value in result.summary().items():
        console.print(f"  {name:<12} {value}")
    histogram(result.latencies)


def histogram(latencies: list[float]) -> None:
    """Print a histogram of the latencies."""
    bounds = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, float("inf")]
    counts = Counter(next(bound for bound in bounds if each <= bound) for each in latencies)
    most = max(counts.values(), default=1)
    for bound in bounds:
        if counts[bound]:
            label = f"≤ {bound * 1000:g} ms" if bound < float("inf") else "more"
            console.print(f"  {label:>10} {'█' * (counts[bound] * 40 // most)} {counts[bound]}")
