"""Machines whose clocks are wrong: no service may compare its own clock with another's.

Only Python's clock is wrong here. The timestamps that Kafka's client writes into records are right.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fault.harness import Harness

MINUTES = timedelta(minutes=5)
# Between the timestamp in a log's last line and the modification time of the log's file.
APART_MAX = timedelta(seconds=10)
AT_START = """
import json, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import time_machine

for module, seconds in json.loads(Path(__file__).with_name("wrong.json").read_text()).items():
    if module in sys.orig_argv:
        time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()
"""


@pytest.fixture
def wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Mapping[str, timedelta]], None]:
    """Return a function that sets clocks wrong in services that start after its call."""

    def off(by: Mapping[str, timedelta]) -> None:
        seconds = {module: offset.total_seconds() for module, offset in by.items()}
        (tmp_path / "wrong.json").write_text(json.dumps(seconds))

    off({})
    (tmp_path / "sitecustomize.py").write_text(AT_START)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return off


@pytest.mark.parametrize(
    ("ahead", "behind"),
    [
        ("ingest", "saver"),
        ("saver", "ingest"),
        ("deliverer", "recovery"),
        ("recovery", "deliverer"),
    ],
)
def test_clocks_five_minutes_ahead_and_behind_lose_and_repeat_nothing(
    ahead: str, behind: str, wrong: Callable[[Mapping[str, timedelta]], None], harness: Harness
) -> None:
    by = {ahead: MINUTES, behind: -MINUTES}
    wrong(by)
    with harness.load(50, 40) as result:
        for kind in (*by, *by):  # The first kill ends a process whose clock is still right.
            time.sleep(4)
            harness.kill(kind)
            harness.ready()
    findings = harness.check(result)
    assert findings.wrong() == {}
    assert len(findings.explained) <= len(harness.in_open_calls)
    assert result.statuses.keys() <= {201, 503}
    for kind, off in by.items():
        log = harness.stack.plan.log(f"{kind}-1")
        logged = datetime.fromisoformat(json.loads(log.read_text().splitlines()[-1])["timestamp"])
        written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
        assert abs(logged - written - off) < APART_MAX, "its clock was right"
