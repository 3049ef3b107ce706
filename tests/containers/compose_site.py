"""Runs docker-compose.yml, unchanged, in a project of its own and on free ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from testcontainers.compose import DockerCompose

from courant_local import ports
from courant_local.home import PROJECT
from support.stack import output_of
from support.waiting import ANSWER_SECONDS

PUBLISHED = {
    "KAFKA_1_PORT": 29092,
    "KAFKA_2_PORT": 29093,
    "KAFKA_3_PORT": 29094,
    "POSTGRES_PORT": 25432,
    "INGEST_PORTS": 8400,
    "SANDBOX_PORT": 8480,
    "PROMETHEUS_PORT": 9090,
}
"""Each variable of docker-compose.yml that moves a port, with the port's default."""
REPLICAS = {"ingest": 1, "saver": 1, "deliverer": 2, "job-runner": 1, "recovery": 2}
OF_OUR_OWN = {"COMPOSE_PROJECT_NAME": "courant-smoke", "COURANT_VERSION": "smoke"}
LOGGED = ("kafka-1", "postgres", "prepare", *REPLICAS)
LOG_SHOWN = 2_000  # characters of each


@dataclass(frozen=True, slots=True)
class Site:
    """The running containers, and the environment of the commands on this machine."""

    compose: DockerCompose
    env: Mapping[str, str]

    def inside(self, service: str, *words: str) -> str:
        """Run a command in a service's first container; return its output."""
        said, _, _ = self.compose.exec_in_container(list(words), service)
        return said

    def asked(self, path: str, **query: str) -> Any:
        """Query Prometheus; return the data of its answer."""
        url = f"http://127.0.0.1:{self.env['PROMETHEUS_PORT']}/api/v1/{path}"
        return (
            httpx2.get(url, params=query, trust_env=False, timeout=ANSWER_SECONDS)
            .raise_for_status()
            .json()["data"]
        )


@dataclass(frozen=True, slots=True)
class Client:
    """The entries that the how-to on containers creates: a key, a template for each channel."""

    key: str
    email: str
    sms: str


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    demand_daemon()
    home = tmp_path_factory.mktemp("home")
    env = {**environment(), "COURANT_HOME": str(home)}  # not the local stack's, should one run
    compose = DockerCompose(PROJECT, compose_file_name="docker-compose.yml", build=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        compose.stop()  # what a run that was killed left behind
        try:
            compose.start()
            yield Site(compose, env)
        except subprocess.CalledProcessError as failed:
            logs = [compose.get_logs(each)[0][-LOG_SHOWN:] for each in LOGGED]
            pytest.fail("\n".join([failed.stderr.decode(), *logs]), pytrace=False)
        finally:
            compose.stop()


def demand_daemon() -> None:
    """Fail if no Docker daemon answers, because a skipped test proves nothing."""
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.fail(f"no Docker daemon answers: {asked.stderr}", pytrace=False)


def environment() -> dict[str, str]:
    """Return new secrets and free ports, by their names in docker-compose.yml."""
    made = run([sys.executable, "deploy/containers/new_env.py"], {})
    chosen = {name: str(ports.free()) for name in PUBLISHED}
    assert len(set(chosen.values())) == len(chosen)
    for name, usual in PUBLISHED.items():
        made = made.replace(f":{usual}", f":{chosen[name]}")
    told = dict(re.findall(r"^(\w+)=(.*)$", made, re.MULTILINE))
    scale = {f"{name.upper().replace('-', '_')}_REPLICAS": str(n) for name, n in REPLICAS.items()}
    return {**told, **chosen, **scale, **OF_OUR_OWN}


@pytest.fixture(scope="session")
def client(site: Site) -> Client:
    """Create the entries of docs/how-to/run-in-containers.md by its commands, and return them."""
    report = 'echo "$COURANT_API_KEY $email $sms"'
    said = shell(documented("A first service") + report, site.env)
    return Client(*said.splitlines()[-1].split())


def documented(heading: str) -> str:
    """Return the commands under a heading of docs/how-to/run-in-containers.md."""
    page = Path(PROJECT / "docs/how-to/run-in-containers.md").read_text()
    found = re.search(rf"^#+ {heading}$.*?^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, f"no commands under {heading}"
    return found[1]


def shell(commands: str, env: Mapping[str, str]) -> str:
    return run(["bash", "-euo", "pipefail", "-c", commands], env)


def run(command: list[str], env: Mapping[str, str]) -> str:
    return output_of(command, {**os.environ, **env})
