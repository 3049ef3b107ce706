"""A heartbeat that is posted to the public address of receipts; ingest writes it into `receipts`.

While heartbeats are missing, no receipt could come either, so the lack of a receipt proves nothing
about a call. Every recovery sends its own, so that a change of the leader leaves no gap.
"""

import json
import logging
from collections.abc import Callable

import httpx2

from courant import clock
from courant.crypto import keyed_hash

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
TIMEOUT_SECONDS = 3.0


def beat(client: httpx2.Client, url: str, hash_key: bytes) -> str | None:
    """Send one heartbeat; return None, or the reason why it did not arrive."""
    body = json.dumps({"at": clock.now().isoformat()}).encode()
    signature = keyed_hash(hash_key, b"heartbeat", body).hex()
    headers = {"Content-Type": "application/json", "X-Courant-Signature": signature}
    try:
        answer = client.post(f"{url}/heartbeat", content=body, headers=headers)
    except httpx2.HTTPError as error:
        return type(error).__name__
    return None if answer.is_success else f"status {answer.status_code}"


def run(url: str, hash_key: bytes, wait: Callable[[float], bool]) -> None:
    """Send a heartbeat every few seconds until `wait` returns true; log when its fate changes."""
    before: str | None = None
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as client:
        while True:
            reason = beat(client, url.rstrip("/"), hash_key)
            if reason != before:
                write = log.warning if reason else log.info
                write("heartbeats", extra={"arrive": reason is None, "reason": reason})
            before = reason
            if wait(EVERY_SECONDS):
                return
