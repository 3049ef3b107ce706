"""The fair share: a service that posts far more than usual does not delay the other services."""

from contextlib import suppress

import msgspec
import pytest
from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient

from courant.contracts import KeyType
from courant.topics import Channel, Lane
from courant_cli import entries
from courant_cli.load import quantile
from fault.site import Site, together
from support.waiting import wait

TAKEN_A_SECOND = 100
FAIR_SHARE = 1_200  # Notifications a minute: a fifth of what the provider takes.
OTHER_A_SECOND, USUAL_A_SECOND, SECONDS = 10, 0.4, 50


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_FAIR_SHARE", str(FAIR_SHARE))


@pytest.mark.usefixtures("shares")
def test_a_service_that_posts_a_thousand_times_its_usual_delays_no_other(site: Site) -> None:
    site.order(events={"drop_share": 1.0})
    site.throttle(TAKEN_A_SECOND)
    # Each load has its own text, because the checks report one text sent twice to one recipient.
    key, (alone, along) = another(site, "Alone", "Along")
    flooding, (seldom, often) = another(site, "Seldom", "Often")
    with (
        site.load(USUAL_A_SECOND, SECONDS, seldom, flooding) as usual,
        site.load(OTHER_A_SECOND, SECONDS, alone, key) as idle,
    ):
        pass
    with (
        site.load(1_000 * USUAL_A_SECOND, SECONDS, often, flooding) as flood,
        site.load(OTHER_A_SECOND, SECONDS, along, key) as beside,
    ):
        pass
    waiting = site.stack.sql("SELECT count(*) FROM notifications WHERE state = 'created'")[0][0]
    site.order(quota_per_second=None)

    found = site.ask(together(usual, idle, flood, beside))
    p99_idle, p99_beside = (quantile(site.waits(result), 0.99) for result in (idle, beside))
    print(f"p99 idle {p99_idle:.3f} s, beside {p99_beside:.3f} s, {waiting} wait")  # noqa: T201
    assert found.wrong() == {}
    assert found.explained == set()
    assert waiting > TAKEN_A_SECOND * SECONDS  # More was accepted than the provider could take.
    asked = "SELECT lane, count(*) FROM notifications WHERE id = ANY(%s::uuid[]) GROUP BY lane"
    lanes = dict(site.stack.sql(asked, flood.ids))
    assert 0 < lanes[Lane.NORMAL] <= 1.1 * FAIR_SHARE * SECONDS / 60
    assert dict(site.stack.sql(asked, beside.ids)) == {Lane.NORMAL: len(beside.ids)}
    assert p99_beside <= max(0.25, 1.1 * p99_idle)


def another(site: Site, *words: str) -> tuple[str, list[str]]:
    """Create a service with a template for each word; return its key and the templates' ids."""
    installation = site.stack.installation
    service = entries.new_service(installation, words[0], words[0].lower(), False, [])
    entries.put(
        installation, msgspec.structs.replace(service, rate_limit=1_000_000, daily_email=1_000_000)
    )
    templates = [
        entries.new_template(service.id, Channel.EMAIL, word, word, f"{word}: ((name)).")
        for word in words
    ]
    for template in templates:
        entries.put(installation, template)
    _, key = entries.new_key(installation, service.id, words[0].lower(), KeyType.NORMAL)
    client = NotificationsAPIClient(key, base_url=site.stack.url)

    def is_known() -> bool:
        with suppress(HTTPError):
            return bool(client.get_template(str(templates[-1].id)))
        return False

    wait(is_known, "ingest knows the template")
    return key, [str(template.id) for template in templates]
