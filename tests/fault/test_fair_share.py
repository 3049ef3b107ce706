"""The fair share: a service that posts far more than usual does not delay the other services."""

from contextlib import suppress

import msgspec
import pytest
from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient

from courant.contracts import KeyType
from courant.topics import Channel, Lane
from courant_cli import entries, services
from courant_cli.load import quantile
from fault.harness import Harness, merged
from support.waiting import wait

TAKEN_A_SECOND = 100
FAIR_SHARE = 1_200  # Notifications a minute: a fifth of what the provider takes.
OTHER_A_SECOND, USUAL_A_SECOND, SECONDS = 10, 0.4, 50


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_FAIR_SHARE", str(FAIR_SHARE))


@pytest.mark.usefixtures("shares")
def test_a_service_that_posts_a_thousand_times_its_usual_delays_no_other(harness: Harness) -> None:
    harness.configure_sandbox(events={"drop_share": 1.0})
    harness.throttle(TAKEN_A_SECOND)
    # Each load has its own text, because the checks report one text sent twice to one recipient.
    key, (alone, along) = another(harness, "Alone", "Along")
    flooding, (seldom, often) = another(harness, "Seldom", "Often")
    with (
        harness.load(USUAL_A_SECOND, SECONDS, seldom, flooding) as usual,
        harness.load(OTHER_A_SECOND, SECONDS, alone, key) as idle,
    ):
        pass
    with (
        harness.load(1_000 * USUAL_A_SECOND, SECONDS, often, flooding) as flood,
        harness.load(OTHER_A_SECOND, SECONDS, along, key) as beside,
    ):
        pass
    waiting = harness.stack.sql("SELECT count(*) FROM notifications WHERE state = 'created'")[0][0]
    harness.configure_sandbox(quota_per_second=None)

    findings = harness.check(merged(usual, idle, flood, beside))
    p99_idle, p99_beside = (quantile(harness.waits(result), 0.99) for result in (idle, beside))
    print(f"p99 idle {p99_idle:.3f} s, beside {p99_beside:.3f} s, {waiting} wait")  # noqa: T201
    assert findings.wrong() == {}
    assert findings.explained == set()
    assert waiting > TAKEN_A_SECOND * SECONDS  # More was accepted than the provider could take.
    asked = "SELECT lane, count(*) FROM notifications WHERE id = ANY(%s::uuid[]) GROUP BY lane"
    lanes = dict(harness.stack.sql(asked, flood.ids))
    assert 0 < lanes[Lane.NORMAL] <= 1.1 * FAIR_SHARE * SECONDS / 60
    assert dict(harness.stack.sql(asked, beside.ids)) == {Lane.NORMAL: len(beside.ids)}
    assert p99_beside <= max(0.25, 1.1 * p99_idle)


def another(harness: Harness, *words: str) -> tuple[str, list[str]]:
    """Create a service with a template for each word; return its key and the templates' ids."""
    installation = harness.stack.installation
    service = services.new_service(installation, words[0], words[0].lower(), False, [])
    entries.put_entry(
        installation, msgspec.structs.replace(service, rate_limit=1_000_000, daily_email=1_000_000)
    )
    templates = [
        entries.new_template(service.id, Channel.EMAIL, word, word, f"{word}: ((name)).")
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
