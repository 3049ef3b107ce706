"""A body in parts: as fast as its client takes them, and never one that only looks whole."""

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
"""How long a client may take for a part, before it is given up. Sockets take much at a time: at
64 KiB/s there may be nothing for seconds.
"""


async def send_parts(parts: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    """Send a body, part by part; who called has sent the headers.

    What ends before its end is left unfinished: the server then breaks the connection off, and
    the client sees that it is not whole.
    """
    left = asyncio.ensure_future(wait_for_disconnect(receive))
    patience, now = MinimumSpeed(), asyncio.get_running_loop().time
    try:
        async with aclosing(parts):
            async for part in parts:
                if left.done():
                    return
                began = now()
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                if patience.too_slow(now() - began, len(part)):
                    raise TimeoutError("taken too slowly")
        await send({"type": "http.response.body", "body": b""})
    except (Unavailable, TimeoutError) as error:
        log.warning("answer broken off", extra={"reason": str(error) or "not taken in time"})
    finally:
        left.cancel()


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has left. Nothing else tells of it: parts are sent to nobody then."""
    while (await receive())["type"] != "http.disconnect":
        pass
