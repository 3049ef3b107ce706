"""Logs what happens to a request: its id is on each line, and a failure has no personal values."""

import contextvars
import logging
import time
import traceback
from collections.abc import Callable

from courant.runbooks import Runbook

log = logging.getLogger(__name__)

FRAMES_LOGGED = 3
SPARSE_SECONDS = 1.0
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def log_failure(error: Exception) -> None:
    """Log a failure of ours by its type and lines. Its text may hold personal values."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_LOGGED:]
    at = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    fields = {"error": type(error).__name__, "at": at}
    log.error("request failed", extra={**fields, "runbook": Runbook.REQUEST_FAILED})


class RequestIdFilter(logging.Filter):
    """Adds the request's id to each line that is logged while the request is answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        if id := request_id.get():
            record.request_id = id
        return True


class SparseWarning:
    """Logs a warning about what strangers send, at most once a second. They could fill a disk."""

    def __init__(self, text: str, now: Callable[[], float] = time.monotonic) -> None:
        self._text, self._now = text, now
        self._last = -SPARSE_SECONDS
        self._count = 0

    def __call__(self, reason: str) -> None:
        """Log the line with this reason, and how often it came since the last one."""
        self._count += 1
        if self._now() - self._last >= SPARSE_SECONDS:
            log.warning(self._text, extra={"reason": reason, "count": self._count})
            self._last, self._count = self._now(), 0
