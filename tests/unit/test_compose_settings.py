"""docker-compose.yml gives each service what it wants, said here without a Docker daemon."""

from typing import Any

import pytest
import yaml

from courant_cli.docs import SERVICES
from courant_local.home import PROJECT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    return read


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_given_all_that_has_no_default(name: str, compose: dict[str, Any]) -> None:
    fields = SERVICES[name].model_fields
    wanted = {field.upper() for field, told in fields.items() if told.is_required()}
    assert wanted
    assert wanted <= compose["services"][name]["environment"].keys()


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"prepare"}))  # which ends when it is done
def test_probes_and_prometheus_ask_the_health_port_which_is_not_published(
    name: str, compose: dict[str, Any]
) -> None:
    prefix, service = name.upper().replace("-", "_"), compose["services"][name]
    port = SERVICES[name].model_fields[f"{prefix.lower()}_health_port"].default
    assert f"{prefix}_HEALTH_PORT" not in service["environment"]
    assert service["environment"][f"{prefix}_HEALTH_HOST"] == "0.0.0.0"
    assert service["healthcheck"]["test"][-1] == f"http://127.0.0.1:{port}/readyz"
    published = ["127.0.0.1:${INGEST_PORTS:-8400}:8400"] if name == "ingest" else []
    assert service.get("ports", []) == published
    scraped = yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())
    [job] = [each for each in scraped["scrape_configs"] if each["job_name"] == name]
    assert [each["port"] for each in job["dns_sd_configs"]] == [port]
