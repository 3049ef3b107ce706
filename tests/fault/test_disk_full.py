"""The disk of PostgreSQL or of Kafka is full for a while, under load."""

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fault.harness import Harness
from support.stack import running

FULL_SECONDS = 25
SIZE = "1500m"  # more than either writes before the fault


def mount(folder: Path) -> None:
    """Put a small file system of its own on the folder."""
    folder.mkdir(parents=True)
    # PostgreSQL's folder belongs to another account where the tests run as root.
    options = f"size={SIZE},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all free space of the folder's file system for FULL_SECONDS."""
    ballast = folder / "ballast"
    until = time.monotonic() + FULL_SECONDS
    try:
        with ballast.open("wb") as file:
            while time.monotonic() < until:
                free = os.statvfs(folder)
                # Again and again, because a log that is deleted frees some.
                if size := free.f_bavail * free.f_frsize:
                    os.posix_fallocate(file.fileno(), file.tell(), size)
                    file.seek(0, os.SEEK_END)
                time.sleep(0.2)
    finally:
        ballast.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("part", ["postgres", "kafka-1"])
def test_a_full_disk_loses_nothing_and_causes_no_second_send(part: str) -> None:
    with ExitStack() as cleanup:

        def prepare(home: Path) -> None:
            mount(home / part)
            cleanup.callback(subprocess.run, ["umount", "--lazy", str(home / part)], check=False)

        with running(prepare=prepare) as stack:
            harness = Harness(stack, f"disk full: {part}")
            with harness.load(50, FULL_SECONDS + 10) as result:
                time.sleep(3)
                harness.note_open_calls()
                fill(stack.plan.home / part)
                harness.note_open_calls()
            findings = harness.check(result)
        assert findings.wrong() == {}
        assert len(findings.explained) <= len(harness.in_open_calls)
        assert set(result.statuses) <= {201, 503}
        if part == "postgres":
            assert set(result.statuses) == {201}  # Ingest accepts without Postgres.
