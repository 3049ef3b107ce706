"""Refusals: everybody is refused alike, or one service's sender is not accepted."""

import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient

from courant.contracts import KeyType
from courant.directory.entries import Sender
from courant.topics import Channel
from courant_cli import entries, services
from courant_cli.load import quantile
from fault.harness import Harness, merged
from support.waiting import wait

OUTAGE_SECONDS, RATE = 60, 20
RESUME_SECONDS = 60.0
"""After the repair everything that waited is sent within this time."""
FINAL = ("technical-failure", "permanent-failure", "provider-failure")
UNVERIFIED = (
    "Email address is not verified. The following identities failed the check in region "
    "CA-CENTRAL-1: demo@example.ca"
)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "SomethingNewException"},
        {"code": "MessageRejected", "message": "Sending paused for this account. Look at it."},
        {"code": "MessageRejected", "message": UNVERIFIED},
        {"code": "RequestTimeTooSkewed", "http": 403},
    ],
    ids=["unknown-4xx", "account-paused", "from-not-verified", "clock"],
)
def test_a_refusal_of_everybody_fails_no_message_and_sending_resumes_after_the_repair(
    harness: Harness, error: dict[str, Any]
) -> None:
    with harness.load(RATE, OUTAGE_SECONDS + 10) as result:
        time.sleep(3)
        harness.configure_sandbox(error=error)
        time.sleep(OUTAGE_SECONDS)
        assert states(harness, *FINAL) == 0
        assert stopped(harness)
        harness.configure_sandbox(error=None)
        repaired = time.monotonic()
    wait(lambda: states(harness, "created", "claimed") == 0, "all are sent")
    resumed = time.monotonic() - repaired
    findings = harness.check(result)
    print(f"all sent {resumed:.1f} s after the repair")  # noqa: T201
    assert findings.wrong() == {}
    assert states(harness, *FINAL) == 0
    assert harness.stack.sql("SELECT count(*) FROM notifications WHERE tries > 0") == [(0,)]
    assert resumed < RESUME_SECONDS


def test_one_services_missing_sender_does_not_delay_another_service(harness: Harness) -> None:
    # Each load has its own text, because the checks report one text sent twice to one recipient.
    key, (alone, along) = texting_service(harness, "Healthy", "Along")
    broken_key, (broken,) = texting_service(harness, "Broken")
    with harness.load(5, 20, alone, key, Channel.SMS, number) as before:
        pass
    missing = {"code": "ResourceNotFoundException", "resource_type": "sender-id"}
    harness.configure_sandbox(channel="sms", error={**missing, "source": "BROKEN"})
    with (
        harness.load(1, 60, broken, broken_key, Channel.SMS, number) as waiting,
        harness.load(5, 60, along, key, Channel.SMS, number) as beside,
    ):
        pass
    assert states(harness, *FINAL) == 0
    assert stopped(harness, "courant_senders_paused")
    harness.configure_sandbox(channel="sms", error=None)
    repaired = time.monotonic()
    wait(lambda: states(harness, "created", "claimed") == 0, "all are sent")
    resumed = time.monotonic() - repaired
    p90_before, p90_beside = (quantile(harness.waits(each), 0.9) for each in (before, beside))
    print(f"p90 {p90_before:.3f} s, beside {p90_beside:.3f} s; resumed {resumed:.1f} s")  # noqa: T201
    assert harness.check(merged(before, waiting, beside)).wrong() == {}
    assert resumed < RESUME_SECONDS
    assert p90_beside <= max(0.25, 1.1 * p90_before)


def states(harness: Harness, *names: str) -> int:
    """Count the notifications in these states."""
    asked = "SELECT count(*) FROM notifications WHERE state = ANY(%s)"
    return int(harness.stack.sql(asked, list(names))[0][0])


def stopped(harness: Harness, metric: str = "courant_breaker_open") -> bool:
    """Return whether the deliverer's metric, for which an alert pages somebody, is set."""
    lines = harness.metrics("deliverer").splitlines()
    return any(line.startswith(metric) and float(line.split()[-1]) > 0 for line in lines)


def number(nth: int) -> str:
    """Return a number whose last digits order nothing of the sandbox."""
    return f"+1613555{1000 + nth}"


def texting_service(harness: Harness, *words: str) -> tuple[str, list[str]]:
    """Create a service with an SMS sender of its own and a template for each word.

    Returns its key and the templates' ids. The sender is the first word in capital letters.
    """
    installation = harness.stack.installation
    service = services.new_service(installation, words[0], words[0].lower(), False, [])
    entries.put_entry(
        installation, msgspec.structs.replace(service, rate_limit=1_000_000, daily_sms=1_000_000)
    )
    sender = Sender(
        id=uuid4(),
        service_id=service.id,
        channel=Channel.SMS,
        value=words[0].upper(),
        default=True,
    )
    entries.put_entry(installation, sender)
    templates = [
        entries.new_template(service.id, Channel.SMS, word, None, f"{word}: ((name)).")
        for word in words
    ]
    for template in templates:
        entries.put_entry(installation, template)
    _, key = entries.new_key(installation, service.id, words[0].lower(), KeyType.NORMAL)
    client = NotificationsAPIClient(key, base_url=harness.stack.url)

    def is_known() -> bool:
        with suppress(HTTPError):
            return bool(client.get_template(str(templates[-1].id)))
        return False

    wait(is_known, "ingest knows the template")
    return key, [str(template.id) for template in templates]
