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
