"""Compares HTTP stacks for ingest: requests per second, each one acknowledged by Kafka.

    python -m bench.http_stack [candidate …]

Every candidate but `hello` does the work of the ceiling of `accept`. `python -m bench accept`
measures ingest itself, with its checks.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from granian.constants import Interfaces
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.accept import PATH, Side
from bench.ceilings.raw_asgi import Receive, Send, accepted, answer, body_of, raw, serve
from bench.measurements import console, interleaved, middle
from bench.stack import bench_stack
from courant.kafka.async_producer import AsyncProducer

MODULE = "bench.http_stack"


def hello(_: AsyncProducer) -> Any:
    async def app(_: Any, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await answer(send, 201, b"{}")

    return app


def starlette(log: AsyncProducer) -> Any:
    async def post(request: Request) -> Response:
        outgoing, told = accepted(await request.body())
        await log.put(outgoing)
        return Response(told, 201, media_type="application/json")

    return Starlette(routes=[Route(PATH, post, methods=["POST"])])


def rsgi(log: AsyncProducer) -> Any:
    async def app(_: Any, protocol: Any) -> None:
        outgoing, told = accepted(await protocol())
        await log.put(outgoing)
        protocol.response_bytes(201, [("content-type", "application/json")], told)

    return app


APPS: dict[str, tuple[Callable[[AsyncProducer], Any], Interfaces]] = {
    "hello": (hello, Interfaces.ASGINL),
    "RSGI": (rsgi, Interfaces.RSGI),
    "raw": (raw, Interfaces.ASGINL),
    "Starlette": (starlette, Interfaces.ASGINL),
}


def main(names: list[str]) -> None:
    """Measure the candidates and print their figures."""
    with bench_stack() as stack, ExitStack() as servers:
        sides = {
            name: Side(stack, servers.enter_context(stack.serving(MODULE, "serve", name)))
            for name in names or APPS
        }
        for each in sides.values():
            each.warm_up()
        found = interleaved({name: each.rate for name, each in sides.items()})
    for name, rates in found.items():
        console.print(f"{name:9}  {middle(rates):8,.0f} requests/s  {sides[name].more()}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name, port]:
            make, interface = APPS[name]
            asyncio.run(serve(make, int(port), interface))
        case names:
            main(names)
