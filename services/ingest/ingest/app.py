"""The parts put together: the same for the process, the tests and the bench."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from courant import crypto, recipients
from courant.directory.entries import Directory
from courant.kafka.async_producer import Inbox
from ingest.accept.content import TemplateCache
from ingest.accept.handle import Accept, AcceptParts
from ingest.accept.idempotency import IdempotencyStore
from ingest.accept.rules import Simulated
from ingest.api import Api, Rows
from ingest.bulk.handle import Bounds, Bulk
from ingest.callers.auth import Authentication
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.http.asgi import App
from ingest.jobs.handle import JobEndpoints, Jobs
from ingest.read.templates import TemplateEndpoints
from ingest.read.views import View
from ingest.receipts import sns
from ingest.receipts.handle import ReceiptEndpoints
from ingest.receipts.sns import SignatureVerifier
from ingest.settings import IngestSettings, parted


class Reads(Rows, IdempotencyStore, Protocol):
    """All that is read from Postgres."""


Fetch = Callable[[str], Awaitable[bytes]]


def app(
    settings: IngestSettings,
    directory: Directory,
    log: Inbox,
    reader: Reads,
    jobs: Jobs,
    fetch: Fetch = sns.fetch,
) -> App:
    """Give the application."""
    ring = crypto.key_ring(settings.courant_seal_keys.get_secret_value())
    hash_key = settings.courant_hash_key.get_secret_value().encode()
    library = TemplateCache(directory)
    simulated = recipients.listed("email", parted(settings.ingest_simulated_emails))
    simulated |= recipients.listed("sms", parted(settings.ingest_simulated_numbers))
    parts = AcceptParts(
        directory=directory,
        templates=library,
        inbox=log,
        idempotency=reader,
        limits=Limits(),
        fair_shares=FairShares(settings.ingest_fair_share),
        key_ring=ring,
        hash_key=hash_key,
        lists=Simulated(simulated, settings.ingest_docs_url.rstrip("/")),
        sending_domain=settings.courant_sending_domain,
    )
    trusted = settings.receipts_trusted_cert_prefix
    verifier = SignatureVerifier(
        frozenset(parted(settings.receipts_topic_arns)),
        f"{trusted.rstrip('/')}/" if trusted else "",
        fetch,
    )
    api = Api(
        gate=Authentication(directory, ring, hash_key),
        accept=Accept(parts),
        reader=reader,
        window=View(directory, library, ring),
        desk=ReceiptEndpoints(log, verifier, ring, hash_key),
        stationery=TemplateEndpoints(directory, library),
        jobs=JobEndpoints(jobs, log, directory, ring),
        bulk=Bulk(
            parts,
            Bounds(
                settings.ingest_bulk_rows_max,
                settings.ingest_job_rows_max,
                settings.ingest_uploads_max,
            ),
        ),
    )
    origins = frozenset(each.encode() for each in parted(settings.ingest_docs_origins))
    return App(api.routes(), settings.ingest_in_flight_max, settings.ingest_body_bytes_max, origins)
