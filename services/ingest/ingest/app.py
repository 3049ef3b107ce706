"""Builds the application from its parts, alike for the process and the tests."""

from typing import Protocol

from courant import crypto, recipients
from courant.directory.entries import Directory
from courant.kafka.async_producer import Inbox
from ingest.accept.content import TemplateCache
from ingest.accept.handle import Accept, AcceptParts
from ingest.accept.idempotency import IdempotencyStore, RecentKeys
from ingest.api import Api, NotificationStore
from ingest.bulk.handle import Bounds, Bulk
from ingest.callers.auth import Authentication
from ingest.callers.fair_share import FairShares
from ingest.callers.limits import Limits
from ingest.http.asgi import App
from ingest.jobs.handle import JobEndpoints, Jobs
from ingest.jobs.views import JobView
from ingest.read.templates import TemplateEndpoints
from ingest.read.views import View
from ingest.receipts.certificates import Fetch, Fetcher
from ingest.receipts.handle import ReceiptEndpoints
from ingest.receipts.sns import SignatureVerifier
from ingest.settings import IngestSettings, split_list


class ReadStore(NotificationStore, IdempotencyStore, Protocol):
    """All reads from Postgres except those of jobs."""


def build_app(
    settings: IngestSettings,
    directory: Directory,
    inbox: Inbox,
    reader: ReadStore,
    jobs: Jobs,
    fetch: Fetch | None = None,
) -> App:
    """Build the ASGI application."""
    key_ring = crypto.key_ring(settings.courant_seal_keys.get_secret_value())
    hash_key = settings.courant_hash_key.get_secret_value().encode()
    template_cache = TemplateCache(directory)
    simulated = recipients.listed("email", split_list(settings.ingest_simulated_emails))
    simulated |= recipients.listed("sms", split_list(settings.ingest_simulated_numbers))
    parts = AcceptParts(
        directory=directory,
        templates=template_cache,
        inbox=inbox,
        idempotency=reader,
        recent_keys=RecentKeys(),
        limits=Limits(),
        fair_shares=FairShares(settings.ingest_fair_share),
        key_ring=key_ring,
        hash_key=hash_key,
        simulated=simulated,
        docs_url=settings.ingest_docs_url.rstrip("/"),
        sending_domain=settings.courant_sending_domain,
    )
    trusted = settings.receipts_trusted_cert_prefix
    verifier = SignatureVerifier(
        frozenset(split_list(settings.receipts_topic_arns)),
        f"{trusted.rstrip('/')}/" if trusted else "",
        fetch or Fetcher().fetch,
    )
    job_view = JobView(directory, key_ring)
    api = Api(
        authentication=Authentication(directory, key_ring, hash_key),
        accept=Accept(parts),
        reader=reader,
        view=View(directory, template_cache, key_ring),
        receipts=ReceiptEndpoints(
            inbox, verifier, key_ring, hash_key, settings.receipts_auto_replies_fail
        ),
        templates=TemplateEndpoints(directory, template_cache),
        jobs=JobEndpoints(jobs, inbox, job_view, key_ring),
        bulk=Bulk(
            parts,
            jobs,
            job_view,
            Bounds(
                settings.ingest_bulk_rows_max,
                settings.ingest_job_rows_max,
                settings.ingest_uploads_max,
            ),
        ),
    )
    origins = frozenset(origin.encode() for origin in split_list(settings.ingest_docs_origins))
    return App(
        api.routes(),
        settings.ingest_in_flight_max,
        settings.ingest_body_bytes_max,
        settings.ingest_bodies_bytes_max,
        origins,
    )
