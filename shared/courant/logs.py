"""Formats log lines: a fixed phrase and fields, as JSON, or readable on a terminal.

No line holds personal data.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

OURS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": "\x1b[2m"}


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that the caller passed as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in OURS}


class Json(logging.Formatter):
    """Formats a line as one JSON object. Log stores expect the names of its first five fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        written = datetime.fromtimestamp(record.created, UTC)
        first: dict[str, object] = {
            "timestamp": written.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            "service": self._service,
        }
        # A library may pass a field of the same name. A second value would hide ours from a search.
        extra = {f"extra_{k}" if k in first else k: v for k, v in fields(record).items()}
        line = {**first, **extra}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Pretty(logging.Formatter):
    """Formats a line for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        colour = COLOURS.get(record.levelname, "")
        extra = "  ".join(f"{name}={value}" for name, value in fields(record).items())
        level = f"{colour}{record.levelname:<7}\x1b[0m"
        line = f"{at} {level} {record.getMessage()}  \x1b[2m{extra}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start(service: str, form: Literal["json", "pretty", "auto"], level: str) -> None:
    """Send every log line of this process to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    pretty = form == "pretty" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(Pretty() if pretty else Json(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At INFO these libraries repeat what our own lines report.
    for loud in ("botocore", "urllib3", "httpx2", "httpcore2", "faust", "aiokafka", "mode"):
        logging.getLogger(loud).setLevel(logging.WARNING)
