"""Fetches and keeps the certificates that sign receipts.

Anybody who knows the name of a topic can make ingest fetch a certificate. So fetches are few at a
time, failures are remembered, and a certificate that has proved nothing never displaces one that
has verified a signature.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias, TypeVar

import httpx2
from cryptography import x509

from courant.errors import Unavailable

T = TypeVar("T")
Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]

FETCH_SECONDS = 5.0
FETCHES_MAX = 2  # at once
WAITING_MAX = 8  # URLs that are fetched or wait for it; further ones get 503
WAIT_SECONDS = 8.0  # for a certificate; SNS waits 15 s for our answer
CONTENT_BYTES_MAX = 16_384
PROVEN_MAX = 32
UNPROVEN_MAX = 32
REFUSED_MAX = 256
MISSING_SECONDS = 60.0
"""How long a certificate that SNS's host does not have is not asked for again."""
UNREACHABLE_SECONDS = 5.0
"""The same if the host did not answer. SNS tries a receipt four times in a minute by default, so a
failure of a moment must not put all four off."""


class Missing(Unavailable):
    """The host answered, but not with the content."""


class CertificateStore:
    """The certificates by URL. `fetch` returns a URL's content; it raises Unavailable, Missing."""

    def __init__(self, fetch: Fetch, now: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._now = now
        self._proven: dict[str, x509.Certificate] = {}
        self._unproven: dict[str, x509.Certificate] = {}
        self._refused: dict[str, tuple[float, str]] = {}  # until when, and why
        self._fetches: dict[str, asyncio.Task[None]] = {}

    async def get(self, url: str, now: datetime) -> x509.Certificate:
        """Return the certificate at a URL. Raises Unavailable if it cannot be had or is not valid.

        All callers that ask for the same URL wait for one fetch.
        """
        certificate = self._known(url)
        if certificate is None:
            self._check_refused(url)
            if url not in self._fetches:
                if len(self._fetches) >= WAITING_MAX:
                    raise Unavailable("too many certificates are being fetched")
                self._fetches[url] = asyncio.create_task(self._load(url))
            try:
                # Shielded, because others wait for the same fetch.
                await asyncio.wait_for(asyncio.shield(self._fetches[url]), WAIT_SECONDS)
            except TimeoutError:
                raise Unavailable("the certificate does not come in time") from None
            self._check_refused(url)
            certificate = self._known(url)
            if certificate is None:
                raise Unavailable("too many certificates were fetched")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            self._proven.pop(url, None)
            self._unproven.pop(url, None)
            self._refuse(url, MISSING_SECONDS, "the certificate is not valid now")
            self._check_refused(url)
        return certificate

    def prove(self, url: str) -> None:
        """Note that a signature was verified with the certificate at this URL."""
        if certificate := self._unproven.pop(url, None):
            keep(self._proven, url, certificate, PROVEN_MAX)

    def _known(self, url: str) -> x509.Certificate | None:
        return self._proven.get(url) or self._unproven.get(url)

    def _check_refused(self, url: str) -> None:
        until, reason = self._refused.get(url, (0.0, ""))
        if self._now() < until:
            raise Unavailable(reason)

    def _refuse(self, url: str, seconds: float, reason: str) -> None:
        self._refused.pop(url, None)
        keep(self._refused, url, (self._now() + seconds, reason), REFUSED_MAX)

    async def _load(self, url: str) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(await self._fetch(url))
            keep(self._unproven, url, certificate, UNPROVEN_MAX)
        except ValueError:
            self._refuse(url, MISSING_SECONDS, "the certificate cannot be read")
        except Missing as error:
            self._refuse(url, MISSING_SECONDS, str(error))
        except Unavailable as error:
            self._refuse(url, UNREACHABLE_SECONDS, str(error))
        finally:
            del self._fetches[url]


def keep(kept: dict[str, T], url: str, value: T, most: int) -> None:
    """Add an entry, and drop the oldest ones beyond `most`."""
    kept[url] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


class Fetcher:
    """Fetches URLs with one HTTP client, a few at a time, without redirects."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(FETCHES_MAX)
        self._starting = asyncio.Lock()
        self._client: httpx2.AsyncClient | None = None

    async def fetch(self, url: str) -> bytes:
        """Return a URL's content. Raises Unavailable, and Missing if the host answers otherwise."""
        async with self._turns:
            async with self._starting:
                if self._client is None:
                    # Reading the system's certificates takes 20 ms, and the event loop must go on.
                    self._client = await asyncio.to_thread(new_client)
            return await fetched(self._client, url)


def new_client() -> httpx2.AsyncClient:
    """Return the client. It takes no compressed content, which could be small and inflate."""
    return httpx2.AsyncClient(
        timeout=FETCH_SECONDS,
        follow_redirects=False,
        limits=httpx2.Limits(max_connections=FETCHES_MAX),
        headers={"accept-encoding": "identity"},
    )


async def fetched(client: httpx2.AsyncClient, url: str) -> bytes:
    """Return a URL's content, with limits on time and size."""
    try:
        async with asyncio.timeout(FETCH_SECONDS), client.stream("GET", url) as answer:
            if answer.status_code != httpx2.codes.OK:
                kind = Missing if answer.is_client_error else Unavailable
                raise kind(f"fetch failed: HTTP {answer.status_code}")
            content = b""
            async for part in answer.aiter_raw():
                content += part
                if len(content) > CONTENT_BYTES_MAX:
                    raise Missing("fetch failed: too large")
            return content
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise Unavailable(f"fetch failed: {type(error).__name__}") from None
