"""Smoke tests of docker-compose.yml: it comes up, sends, and is watched."""

import os
import re
import subprocess
from collections import Counter as Tally

import httpx2
import pytest
from notifications_python_client.notifications import NotificationsAPIClient
from prometheus_client import Counter, Gauge, Histogram

from containers.compose_site import REPLICAS, Client, Site, documented, shell
from courant import metrics
from courant_cli import demo
from courant_local import ports
from courant_local.home import PROJECT
from support.waiting import WAIT_SECONDS, wait

pytestmark = pytest.mark.timeout(1800)  # the first one builds the image

PROBE = ("python", "/app/probe.py")
DECLARED = {
    f"{metric.name}{ending}"
    for each in vars(metrics).values()
    if isinstance(each, Counter | Gauge | Histogram)
    for metric in each.describe()
    for ending in ("", "_total", "_bucket")
}
NOT_IN_THE_IMAGE = ("courant_cli", "courant_sandbox", "courant.testing", "pytest", "pip", "typer")


def test_an_email_and_an_sms_are_delivered(site: Site, client: Client) -> None:
    notify = NotificationsAPIClient(client.key, base_url=site.env["COURANT_URL"])
    values = {"name": "Zoë"}
    email = demo.first(
        lambda: notify.send_email_notification(demo.EMAIL, client.email, personalisation=values)
    )
    sms = notify.send_sms_notification(demo.PHONE, client.sms, personalisation=values)
    assert email["content"]["body"] == sms["content"]["body"] == "Hello Zoë"
    assert demo.until_delivered(notify, email["id"]) == "delivered"
    assert demo.until_delivered(notify, sms["id"]) == "delivered"


def test_the_commands_that_the_page_sends_with_deliver(site: Site, client: Client) -> None:
    ours = {"COURANT_API_KEY": client.key, "email": client.email, "sms": client.sms}
    said = shell(documented("Send with it"), {**site.env, **ours})
    assert said.split().count("delivered") == 2


@pytest.mark.parametrize("service", REPLICAS)
def test_a_service_is_ready_and_tells_its_metrics(site: Site, service: str) -> None:
    health = f"http://127.0.0.1:{ports.DEFAULTS[ports.health(service)]}"
    site.inside(service, *PROBE, f"{health}/readyz")
    site.inside(service, *PROBE, f"{health}/metrics")


def test_the_port_that_is_published_is_the_api_alone(site: Site) -> None:
    for path in ("/metrics", "/readyz", "/healthz"):
        assert httpx2.get(site.env["COURANT_URL"] + path, trust_env=False).status_code == 404


def test_every_replica_runs_and_is_healthy(site: Site) -> None:
    found = Tally(
        (each.Service, each.State, each.Health)
        for each in site.compose.get_containers()
        if each.Service in REPLICAS
    )
    assert found == {(name, "running", "healthy"): n for name, n in REPLICAS.items()}


def test_prometheus_reaches_every_replica(site: Site) -> None:
    def up() -> dict[str, int]:
        found = site.asked("query", query="sum by (job) (up)")["result"]
        return {each["metric"]["job"]: int(each["value"][1]) for each in found}

    wait(lambda: up() == REPLICAS, "all targets are up")


def test_the_alert_rules_hold_what_their_tests_say(site: Site) -> None:
    site.inside("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    site.inside("prometheus", "promtool", "test", "rules", "/etc/prometheus/alerts_test.yml")


def test_an_alert_asks_for_metrics_that_exist_and_names_its_page(site: Site) -> None:
    rules = [rule for group in site.asked("rules")["groups"] for rule in group["rules"]]
    assert rules
    runbook = (PROJECT / "docs/runbooks/alerts.md").read_text()
    for rule in rules:
        assert set(re.findall(r"courant_\w+", rule["query"])) <= DECLARED, rule["name"]
        assert rule["annotations"]["runbook"] == f"docs/runbooks/alerts.md#{rule['name'].lower()}"
        assert f"\n## {rule['name']}\n" in runbook


@pytest.mark.parametrize(
    "counted",
    [
        'courant_requests_total{route="/v2/notifications/email", status="201"} > 0',
        'courant_request_seconds_count{route="/v2/notifications/email"} > 0',
        'courant_requests_total{route="/receipts", status=~"2.."} > 0',
        'courant_requests_total{route="/receipts/heartbeat", status=~"2.."} > 0',
        'courant_outcomes_total{provider="ses", outcome="accepted"} > 0',
        'courant_mark_passed_age_seconds{topic="persisted.email.bulk"} < 60',
    ],
)
def test_what_the_alerts_look_for_is_counted_under_these_labels(
    site: Site, client: Client, counted: str
) -> None:
    notify = NotificationsAPIClient(client.key, base_url=site.env["COURANT_URL"])
    values = {"name": "Zoë"}
    demo.first(
        lambda: notify.send_email_notification(demo.EMAIL, client.email, personalisation=values)
    )
    wait(lambda: site.asked("query", query=counted)["result"], counted)


def test_nothing_alerts_once_all_is_up(site: Site, client: Client) -> None:  # noqa: ARG001  # sent before
    wait(lambda: not site.asked("alerts")["alerts"], "no alert fires or is about to")


def test_the_services_are_nobody_and_change_nothing(site: Site) -> None:
    tried = "import os; assert os.getuid() >= 10000; open('/app/new', 'w')"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        site.inside("saver", "python", "-c", tried)
    assert b"Read-only file system" in refused.value.stderr


@pytest.mark.parametrize("module", NOT_IN_THE_IMAGE)
def test_the_image_has_only_what_services_run(site: Site, module: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        site.inside("saver", "python", "-c", f"import {module}")
    assert b"ModuleNotFoundError" in refused.value.stderr


def test_without_secrets_it_says_how_to_make_them() -> None:
    told = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    done = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "config", "--quiet"],
        cwd=PROJECT,
        env=told,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode != 0
    assert "deploy/containers/new_env.py" in done.stderr
