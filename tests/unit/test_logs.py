import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from courant import logs

WRITTEN = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def line(**extra: object) -> dict[str, object]:
    """Format one line as a service writes it, with these extra fields."""
    record = logging.getLogger("saver.store").makeRecord(
        "saver.store", logging.INFO, __file__, 1, "%d rows saved", (3,), None, extra=extra
    )
    record.created = WRITTEN.timestamp()
    read: dict[str, object] = json.loads(logs.Json("saver").format(record))
    return read


def test_a_line_starts_with_the_fields_that_log_stores_look_for() -> None:
    assert list(line(batch=7).items()) == [
        ("timestamp", "2026-05-01T12:00:00.250+00:00"),
        ("level", "info"),
        ("message", "3 rows saved"),
        ("logger", "saver.store"),
        ("service", "saver"),
        ("batch", 7),
    ]


@pytest.mark.parametrize("name", ["timestamp", "level", "logger", "service"])
def test_an_extra_never_overwrites_a_field_of_the_line(name: str) -> None:
    found = line(**{name: "theirs"})
    assert found.pop(f"extra_{name}") == "theirs"
    assert found == line()


def test_a_message_of_the_extras_raises_before_it_can_overwrite_ours() -> None:
    # The standard library refuses it; the formatter relies on that.
    with pytest.raises(KeyError, match="message"):
        line(message="theirs")


def test_an_exception_stands_in_a_field_of_the_same_line() -> None:
    try:
        raise ValueError("of this test")
    except ValueError:
        record = logging.LogRecord(
            "saver", logging.ERROR, __file__, 1, "thread died", None, sys.exc_info()
        )
    text = logs.Json("saver").format(record)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: of this test")
