"""Sends a body in parts, at the client's speed. An incomplete body never looks complete."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from courant.errors import Unavailable
from ingest.http.slow_clients import MinimumSpeed

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
SEND_SECONDS = 30.0
"""How long a client may take to read one part before it is disconnected.

It is long because sockets take much data at once: at 64 KiB/s nothing may move for seconds.
"""


async def send_parts(parts: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    """Send a body part by part. The caller has already sent the headers.

    If `parts` fails or the client is too slow, the body stays unfinished. Granian then breaks the
    connection, so that the client sees that the body is incomplete.
    """
    disconnected = asyncio.ensure_future(wait_for_disconnect(receive))
    speed, now = MinimumSpeed(), asyncio.get_running_loop().time
    try:
        async with aclosing(parts):
            async for part in parts:
                if disconnected.done():
                    return
                began = now()
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                if speed.too_slow(now() - began, len(part)):
                    raise TimeoutError("the client reads too slowly")
        await send({"type": "http.response.body", "body": b""})
    except (Unavailable, TimeoutError) as error:
        reason = str(error) or "the client did not read in time"
        log.warning("streamed answer aborted", extra={"reason": reason})
    finally:
        disconnected.cancel()


async def wait_for_disconnect(receive: Receive) -> None:
    """Return once the client has disconnected. Sending reports no error after a disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass
