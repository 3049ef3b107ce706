"""What a process says it is: from the image's build, else from git, else unknown."""

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from courant import version
from courant.version import Build, build
from support.ingest.world import World


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURANT_COMMIT", raising=False)
    monkeypatch.delenv("COURANT_BUILT_AT", raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for command in (
        ["init", "--quiet"],
        ["-c", "user.name=a", "-c", "user.email=a@b.ca", "commit", "--quiet", "--allow-empty",
         "--message", "First"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_image_names_its_commit_and_time(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURANT_COMMIT", "c0ffee")
    monkeypatch.setenv("COURANT_BUILT_AT", "2026-11-28T12:00:00Z")
    assert build(checkout) == Build("c0ffee", "2026-11-28T12:00:00Z")


def test_a_checkout_names_its_last_commit(checkout: Path) -> None:
    found = build(checkout)
    assert re.fullmatch("[0-9a-f]{40}", found.commit)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*", found.built_at)


def test_a_folder_inside_another_checkout_does_not_name_that_one(checkout: Path) -> None:
    inside = checkout / "inside"
    inside.mkdir()
    assert build(inside) == Build("unknown", "unknown")


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert build(checkout) == Build("unknown", "unknown")


def test_a_repository_that_git_refuses_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert build(tmp_path) == Build("unknown", "unknown")


def test_every_process_has_the_build_among_its_metrics() -> None:
    line = f'courant_build_info{{commit="{version.BUILD.commit}",version="{version.VERSION}"}} 1.0'
    assert line in generate_latest().decode().splitlines()


def test_status_shows_the_build_and_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a request started a process")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(version, "BUILD", Build("c0ffee", "2026-11-28T12:00:00Z"))
    shown = World().call("GET", "/_status").json()
    assert shown.keys() == {"current_time_utc", "status", "commit_sha", "build_time", "db_version"}
    assert (shown["commit_sha"], shown["build_time"]) == ("c0ffee", "2026-11-28T12:00:00Z")
