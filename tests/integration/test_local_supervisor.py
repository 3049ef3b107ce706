"""The supervisor over small programs: order, restart, orderly end, and its own death."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from courant_local import control, home, leftovers
from support.waiting import WAIT_SECONDS, wait

STUB = Path(__file__).with_name("local_stub.py")
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(restart: bool = True, place: Path = tmp_path, **story: list[str]) -> Any:
        words = "restart" if restart else "leave"
        command = (sys.executable, str(STUB), str(place), json.dumps(story), words)
        with (place / "supervisor.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield begin
    for supervisor in started:
        supervisor.terminate()
        supervisor.wait(WAIT_SECONDS)


def state(place: Path) -> str:
    return str(home.read(place / "stack.json").get("state"))


def process(place: Path, name: str) -> dict[str, Any]:
    return next(each for each in control.status(place) if each["name"] == name)


def said(place: Path, phrase: str) -> list[dict[str, Any]]:
    lines = (place / "supervisor.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["message"] == phrase]


def test_a_stage_starts_once_the_one_before_is_ready(tmp_path: Path, start: Start) -> None:
    start(first=["late"], second=["well"])
    log = tmp_path / "log" / "first-late.log"
    wait(lambda: log.exists() and log.read_text().count("asked") > 2)
    assert [each["name"] for each in control.status(tmp_path)] == ["first-late"]
    assert state(tmp_path) == "starting"


def test_a_killed_process_is_started_again_and_the_log_says_so(
    tmp_path: Path, start: Start
) -> None:
    start(only=["well"])
    wait(lambda: state(tmp_path) == "ready")
    was = process(tmp_path, "only-well")["pid"]
    os.kill(was, signal.SIGKILL)
    wait(lambda: process(tmp_path, "only-well")["pid"] not in {None, was})
    wait(lambda: process(tmp_path, "only-well")["state"] == "ready")
    (line,) = said(tmp_path, "process ended, started again")
    now = process(tmp_path, "only-well")["pid"]
    told = (line["process_name"], line["pid"], line["exit"], line["new_pid"])
    assert told == ("only-well", was, -9, now)


def test_with_no_restart_a_killed_process_stays_down(tmp_path: Path, start: Start) -> None:
    start(restart=False, only=["well"])
    wait(lambda: state(tmp_path) == "ready")
    os.kill(process(tmp_path, "only-well")["pid"], signal.SIGKILL)
    wait(lambda: said(tmp_path, "process ended"))
    # It would be back after 0.2 s: looked for twice as long, and longer on a busy machine.
    time.sleep(0.5)
    now = process(tmp_path, "only-well")
    assert (now["pid"], now["state"], now["restarts"]) == (None, "ended", 0)


def test_a_process_that_cannot_start_ends_the_start_with_its_last_words(
    tmp_path: Path, start: Start
) -> None:
    supervisor = start(first=["well"], second=["broken"])
    assert supervisor.wait(WAIT_SECONDS) == 1
    stack = home.read(tmp_path / "stack.json")
    assert stack["state"] == "failed"
    assert "second-broken ended with 1 before it was ready" in stack["error"]
    assert "broken: no such setting" in stack["error"]
    assert [each["state"] for each in control.status(tmp_path)] == ["stopped", "stopped"]


def test_the_last_stage_stops_first_and_who_does_not_hear_is_killed(
    tmp_path: Path, start: Start
) -> None:
    supervisor = start(first=["well"], second=["deaf"])
    wait(lambda: state(tmp_path) == "ready")
    first = psutil.Process(process(tmp_path, "first-well")["pid"])
    second = psutil.Process(process(tmp_path, "second-deaf")["pid"])
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(WAIT_SECONDS) == 0
    assert not first.is_running()
    assert not second.is_running()
    assert "heard TERM" in (tmp_path / "log" / "second-deaf.log").read_text()
    [killed] = said(tmp_path, "process did not stop, killed")
    assert killed["process_name"] == "second-deaf"
    told = (tmp_path / "log" / "first-well.log").read_text()
    heard = float(told.partition("heard TERM")[2].split()[0])
    assert datetime.fromisoformat(killed["timestamp"]).timestamp() < heard


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's tie to a parent is Linux's")
def test_processes_end_with_a_supervisor_that_is_killed(tmp_path: Path, start: Start) -> None:
    supervisor = start(only=["well"])
    wait(lambda: state(tmp_path) == "ready")
    child = leftovers.identity(process(tmp_path, "only-well")["pid"])
    supervisor.kill()
    supervisor.wait()
    wait(lambda: not leftovers.alive(child))
    assert [each["state"] for each in control.status(tmp_path)] == ["stopped"]


def test_what_a_killed_supervisor_left_behind_is_ended_by_the_next(
    tmp_path: Path, start: Start
) -> None:
    # Deaf to TERM, so that not even the tie to its parent ends it.
    supervisor = start(only=["deaf"])
    wait(lambda: state(tmp_path) == "ready")
    left = leftovers.identity(process(tmp_path, "only-deaf")["pid"])
    supervisor.kill()
    supervisor.wait()
    assert leftovers.alive(left)
    leftovers.STOP_SECONDS, usual = 0.5, leftovers.STOP_SECONDS
    try:
        assert control.stop(tmp_path) is False
    finally:
        leftovers.STOP_SECONDS = usual
    assert not leftovers.alive(left)


def test_a_frozen_process_is_shown_as_frozen(tmp_path: Path, start: Start) -> None:
    start(only=["well"])
    wait(lambda: state(tmp_path) == "ready")
    pid = process(tmp_path, "only-well")["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait(lambda: process(tmp_path, "only-well")["state"] == "frozen")
    os.kill(pid, signal.SIGCONT)
    wait(lambda: process(tmp_path, "only-well")["state"] == "ready")


def test_two_homes_are_two_stacks(tmp_path: Path, start: Start) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    for place in homes:
        place.mkdir()
        start(place=place, only=["well"])
    for place in homes:
        wait(lambda place=place: state(place) == "ready")  # type: ignore[misc]  # a default binds
    assert control.stop(homes[0]) is True
    assert process(homes[1], "only-well")["state"] == "ready"
