"""Reads the settings, builds the parts, serves until a signal stops it."""

import asyncio
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from typing import NoReturn

from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from pydantic import ValidationError

from courant_sandbox.app import App
from courant_sandbox.faults import Control
from courant_sandbox.ledger import Ledger
from courant_sandbox.page import Page
from courant_sandbox.provider import Provider
from courant_sandbox.receipts import ReceiptPoster
from courant_sandbox.settings import Settings
from courant_sandbox.signing import Signer
from courant_sandbox.sns import Topic

log = logging.getLogger("courant_sandbox")


def now() -> datetime:
    return datetime.now(UTC)


async def serve(settings: Settings) -> None:
    ledger = Ledger(settings.ledger)
    signer = Signer(settings.ledger.parent, now())
    control = Control()
    topic = Topic(settings.topic_arn, settings.address, signer, now)
    receipts = None
    if settings.receipts_url:
        receipts = ReceiptPoster(
            settings.receipts_url,
            topic,
            ledger,
            control,
            now,
            settings.event_delay_seconds,
            settings.receipts_share,
        )
    provider = Provider(control, ledger, receipts, now)
    app = App(
        provider=provider,
        control=control,
        ledger=ledger,
        topic=topic,
        page=Page(ledger),
        certificate=signer.certificate,
        rate=settings.rate,
    )
    # One process and one thread of Python: the ledger has one writer, and a kill ends all of it.
    server = Server(
        app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=1024,
        backpressure=settings.max_connections,
        log_level=LogLevels.error,
    )
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(stop, server.stop)
    log.info("sandbox serves", extra={"address": settings.address})
    posting = asyncio.create_task(receipts.run()) if receipts is not None else None
    await server.serve()
    if posting is not None:
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
    ledger.close()


def main() -> NoReturn:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # httpx2 logs a line a request, and its address.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        settings = Settings()
    except ValidationError as error:
        print("sandbox: settings are not usable", file=sys.stderr)
        for wrong in error.errors():
            print(f"  SANDBOX_{str(wrong['loc'][0]).upper()}  {wrong['msg']}", file=sys.stderr)
        sys.exit(2)
    asyncio.run(serve(settings))
    # The embedded server's own threads outlive its stop, and abort the process (status 134) when
    # the interpreter ends under them. Everything is written by now, so leave at once.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
