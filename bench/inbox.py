"""Makes records with ingest's own code, in memory."""

import asyncio

from bench.accept import asked
from bench.stack import BenchStack
from courant.contracts import KeyType
from courant.directory.entries import Template
from courant.records import Outgoing
from courant.topics import Channel
from ingest.accept.content import TemplateCache
from ingest.accept.handle import Accept, AcceptParts
from ingest.accept.idempotency import RecentKeys
from ingest.callers.auth import Caller
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.http.asgi import HttpRequest
from ingest.read.store import Reader


class Kept:
    """An inbox that keeps its records in memory."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    async def put(self, outgoing: Outgoing) -> None:
        self.records.append(outgoing)


def accepted(stack: BenchStack, template: Template, count: int) -> list[Outgoing]:
    """Return the records of `count` accepted emails, made now."""
    log, reader = Kept(), Reader(stack.plan.database_url, 1)
    parts = AcceptParts(
        directory=stack.directory,
        templates=TemplateCache(stack.directory),
        inbox=log,
        recent_keys=RecentKeys(),
        idempotency=reader,  # read only for an Idempotency-Key
        limits=Limits(),
        fair_shares=FairShares(6_000),
        key_ring=stack.installation.ring,
        hash_key=stack.installation.hash_key,
        simulated=frozenset(),
        docs_url="",
        sending_domain="notification.example",
    )
    accept, body = Accept(parts), asked(template)
    [key] = [k for k in stack.directory.keys[stack.service.id].values() if k.type is KeyType.NORMAL]
    caller = Caller(stack.service, key)

    headers = {b"content-type": b"application/json", b"host": b"127.0.0.1"}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    async def work() -> None:
        for _ in range(count):
            request = HttpRequest("POST", {"scheme": "http"}, headers, receive, len(body))
            answer = await accept.notification(Channel.EMAIL, request, caller)
            assert answer.status == 201, answer.body

    asyncio.run(work())
    reader.close()
    return log.records
