import json
import os
import socket
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import make_url

from courant import crypto
from courant_cli.docs import SERVICES
from courant_local import home, plan, ports, processes
from courant_local.kafka import server_properties
from courant_local.plan import CommandError, Plan
from courant_local.ports import PortTaken, PortUnusable


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*map(ports.setting, ports.DEFAULTS), ports.SHIFT):
        monkeypatch.delenv(name, raising=False)


def test_no_two_processes_of_a_stack_can_meet_on_a_port() -> None:
    firsts = sorted(ports.DEFAULTS.values())
    assert all(b - a >= ports.WIDTH for a, b in pairwise(firsts))


@pytest.mark.parametrize(
    ("env", "remembered", "saver"),
    [
        ({}, {}, 8410),
        ({}, {"saver": 9000}, 9000),
        ({"COURANT_PORT_SHIFT": "100"}, {"saver": 9000}, 8510),
        ({"COURANT_PORT_SHIFT": "100", "COURANT_SAVER_PORT": "7000"}, {}, 7000),
    ],
)
def test_a_port_is_its_settings_the_shifted_the_last_times_or_the_default(
    env: dict[str, str], remembered: dict[str, int], saver: int
) -> None:
    assert ports.chosen(env, remembered)["saver"] == saver


@pytest.mark.parametrize("text", ["80x", "-1", "70000"])
def test_a_setting_that_names_no_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(PortUnusable, match=f'COURANT_JOB_RUNNER_PORT must be .* got "{text}"'):
        ports.chosen({"COURANT_JOB_RUNNER_PORT": text}, {})


def test_a_taken_port_is_named_with_its_holder_and_the_setting_that_helps() -> None:
    with socket.socket() as other:
        other.bind((ports.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as raised:
            ports.demand("kafka", port)
    words = str(raised.value)
    assert f"port {port} (COURANT_KAFKA_PORT) is taken by" in words
    assert f"(pid {os.getpid()})" in words
    ports.demand("kafka", port)


def test_a_home_has_one_supervisor_at_a_time(tmp_path: Path) -> None:
    words = rf"runs from {tmp_path} \(supervisor {os.getpid()}\)"
    again = home.locked(tmp_path / "lock")
    with home.locked(tmp_path / "lock"), pytest.raises(home.Occupied, match=words):
        again.__enter__()
    with home.locked(tmp_path / "lock"):
        pass


def test_secrets_are_made_once_usable_and_for_their_owner_alone(tmp_path: Path) -> None:
    made = home.own_secrets(tmp_path)
    assert home.own_secrets(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    crypto.key_ring(made["seal_keys"])
    assert len(made["hash_key"]) >= 32
    assert len(made["cluster_id"]) == 22


def test_a_home_of_an_earlier_version_is_given_the_secrets_that_it_lacks(tmp_path: Path) -> None:
    made = home.own_secrets(tmp_path)
    old = {name: made[name] for name in ("postgres_password", "seal_keys", "hash_key")}
    home.write(tmp_path / "secrets.json", old)
    found = home.own_secrets(tmp_path)
    assert found.keys() == made.keys()
    assert {name: found[name] for name in old} == old
    assert found["courant_saver_password"] not in {made["courant_saver_password"], *old.values()}
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert home.own_secrets(tmp_path) == found


def test_each_service_is_told_its_own_role_and_the_sandbox_none(tmp_path: Path) -> None:
    made = plan.make(tmp_path)
    parts = [processes.service(made, each, 1) for each in (*processes.SERVICES, processes.SANDBOX)]
    urls = {part.kind: make_url(part.child.env.get("DATABASE_URL", "x:///")) for part in parts}
    assert {kind: url.username for kind, url in urls.items()} == {
        "ingest": "courant_ingest",
        "saver": "courant_saver",
        "deliverer": "courant_deliverer",
        "job-runner": "courant_job_runner",
        "recovery": "courant_recovery",
        "sandbox": None,
    }
    owner = make_url(processes.preparation(made).env["DATABASE_URL"])
    assert owner.username == "courant"
    passwords = [url.password for url in (*urls.values(), owner) if url.password]
    assert len(passwords) == len(set(passwords)) == 6


def test_a_plan_comes_back_from_what_is_told_which_holds_no_secret(tmp_path: Path) -> None:
    made = plan.make(tmp_path, scale={"saver": 2})
    told = json.dumps(made.to_json())
    assert Plan.from_json(json.loads(told)) == made
    assert not [secret for secret in made.secrets.values() if secret in told]
    assert made.secrets["postgres_password"] not in repr(made)


def test_a_plan_keeps_the_ports_and_the_brokers_of_the_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as once:
        once.setenv("COURANT_PORT_SHIFT", "50")
        first = plan.make(tmp_path, brokers=3)
    home.write(tmp_path / "stack.json", {"plan": first.to_json()})
    again = plan.make(tmp_path)
    assert again == first
    assert again.bootstrap == "127.0.0.1:9442,127.0.0.1:9443,127.0.0.1:9444"
    with pytest.raises(CommandError, match=r"made with 3 broker"):
        plan.make(tmp_path, brokers=1)


def test_a_plan_keeps_the_prefixes_of_the_last_time_until_others_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as once:
        once.setenv("COURANT_TOPIC_PREFIX", "")
        first = plan.make(tmp_path)
    home.write(tmp_path / "stack.json", {"plan": first.to_json()})
    assert processes.environment(plan.make(tmp_path))["COURANT_TOPIC_PREFIX"] == ""
    monkeypatch.setenv("COURANT_TOPIC_PREFIX", "acme.")
    assert processes.environment(plan.make(tmp_path))["COURANT_TOPIC_PREFIX"] == "acme."


def test_more_instances_than_ports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="saver must be from 1 to 9, got 10"):
        plan.make(tmp_path, scale={"saver": 10})


def test_instances_have_names_ports_and_logs_of_their_own(tmp_path: Path) -> None:
    made = plan.make(tmp_path, scale={"saver": 2})
    saver = next(each for each in processes.SERVICES if each.kind == "saver")
    first, second = processes.instances(made, saver)
    assert (first.name, second.name) == ("saver-1", "saver-2")
    assert (first.port, second.port) == (8410, 8411)
    assert second.child.env["SAVER_HEALTH_PORT"] == "8411"
    assert second.child.log == tmp_path / "log" / "saver-2.log"


def test_ingest_answers_clients_and_probes_on_two_ports(tmp_path: Path) -> None:
    made = plan.make(tmp_path, scale={"ingest": 2})
    ingest = next(each for each in processes.SERVICES if each.kind == "ingest")
    _, second = processes.instances(made, ingest)
    assert second.listens == {"ingest": 8401, "ingest-health": 8451}
    assert (second.url, second.health_url) == ("http://127.0.0.1:8401", "http://127.0.0.1:8451")
    assert second.child.env["INGEST_PORT"] == "8401"
    assert second.child.env["INGEST_HEALTH_PORT"] == "8451"


def test_the_other_services_have_one_port_and_what_is_not_ours_no_health(tmp_path: Path) -> None:
    made = plan.make(tmp_path)
    others = [each for each in processes.SERVICES if each.kind != "ingest"]
    for part in (processes.service(made, each, 1) for each in (*others, processes.SANDBOX)):
        assert part.listens == {part.kind: part.port}
        assert part.health_url == part.url
    assert processes.database(made).health_url is None
    assert processes.database(made).listens == {"postgres": made.port("postgres")}


def test_a_services_default_health_port_is_the_one_it_has_here(tmp_path: Path) -> None:
    made = plan.make(tmp_path)
    for each in processes.SERVICES:
        default = SERVICES[each.kind].model_fields[each.health_variable.lower()].default
        assert default == made.health_port(each.kind)


def test_everything_listens_and_sends_on_this_machine_alone(tmp_path: Path) -> None:
    made = plan.make(tmp_path, brokers=3)
    told = processes.environment(made)
    for name in ("AWS_ENDPOINT_URL", "PUBLIC_RECEIPTS_URL", "SANDBOX_RECEIPTS_URL"):
        assert told[name].startswith("http://127.0.0.1:")
    text = server_properties(2, 9393, {1: 9492, 2: 9493, 3: 9494}, tmp_path, 3)
    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert settings["listeners"] == "CLIENTS://127.0.0.1:9393,CONTROLLER://127.0.0.1:9493"
    assert settings["controller.quorum.voters"] == (
        "1@127.0.0.1:9492,2@127.0.0.1:9493,3@127.0.0.1:9494"
    )
    assert settings["transaction.state.log.min.isr"] == "2"
    assert settings["auto.create.topics.enable"] == "false"
