"""A heartbeat through the public door that receipts come by, written behind it into `receipts`.

Where it is missing no receipt could come either, and of no call may be said that it had none.
Every recovery sends its own, so that a change of the leader leaves no gap.
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
    """Send one; give None, or why it did not arrive."""
    body = json.dumps({"at": clock.now().isoformat()}).encode()
    signature = keyed_hash(hash_key, b"heartbeat", body).hex()
    headers = {"Content-Type": "application/json", "X-Courant-Signature": signature}
    try:
        answer = client.post(f"{url}/heartbeat", content=body, headers=headers)
    except httpx2.HTTPError as error:
        return type(error).__name__
    return None if answer.is_success else f"status {answer.status_code}"


def run(url: str, hash_key: bytes, wait: Callable[[float], bool]) -> None:
    """Send one every few seconds until `wait` says that it is over."""
    before: str | None = None
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as client:
        while True:
            reason = beat(client, url.rstrip("/"), hash_key)
            if reason != before:
                told = log.warning if reason else log.info
                told("heartbeats", extra={"arrive": reason is None, "reason": reason})
            before = reason
            if wait(EVERY_SECONDS):
                return
