"""Put a running stack under load, cause faults in it, and check the outcome at the end."""

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psutil

from courant.topics import Channel
from courant_cli import dead
from courant_cli.load import Load, Result, run, to
from courant_local import control
from fault.questions import Booked, Findings, check
from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

UUID_BYTES = 16
QUIET_SECONDS = 480.0
"""How long the stack may take to settle after the last fault.

A call whose process died stays open for lease plus grace, and a lost order for a minute. Both
periods restart with the next fault, and all of it takes longer on a busy machine.
"""
REPORTS: dict[str, dict[str, Any]] = {}
"""The figures of each fault test, by test name; the table at the end of the run prints them."""


def merged(*results: Result) -> Result:
    """Merge the results of several loads into one."""
    merged = Result()
    for result in results:
        merged.ids += result.ids
        merged.statuses += result.statuses
        merged.latencies += result.latencies
    return merged


class Harness:
    """A stack with methods that send load, kill and freeze processes, and check the outcome."""

    def __init__(self, stack: Stack, fault: str) -> None:
        self.stack = stack
        self.fault = fault
        # Ids of the notifications that were in an open provider call when a fault struck. Only
        # their outcome can be unknown, so only they may be sent again.
        self.in_open_calls: set[str] = set()

    @contextmanager
    def load(
        self,
        rate: float,
        seconds: float,
        template_id: str = "",
        key: str = "",
        channel: Channel = Channel.EMAIL,
        recipient: Callable[[int], str] | None = None,
        first: int = 0,
    ) -> Iterator[Result]:
        """Send a load while the block runs; the result is complete when the block has ended.

        `first` is the number of the first recipient: two loads to the same recipients look like
        messages that were sent twice.

        The load takes longer than `seconds` if requests wait for a broken connection, or if the
        rate is higher than the stack can accept.
        """
        known = self.stack.variables
        asked = Load(
            url=self.stack.url,
            key=key or known["COURANT_API_KEY"],
            template_id=template_id or known["COURANT_EMAIL_TEMPLATE_ID"],
            channel=channel,
            count=int(rate * seconds),
            rate=rate,
            connections=32,
            recipient=recipient or (lambda number: to(channel)(first + number)),
        )
        result = Result()
        thread = threading.Thread(target=lambda: asyncio.run(run(asked, result=result)))
        thread.start()
        try:
            yield result
        finally:
            thread.join()

    def kill(self, *kinds: str) -> None:
        """Send SIGKILL to every process of these kinds; the supervisor restarts them."""
        self.note_open_calls()
        processes = [each for each in control.status(self.stack.folder) if each["kind"] in kinds]
        assert {process["kind"] for process in processes} == set(kinds)
        for process in processes:
            os.kill(process["pid"], signal.SIGKILL)

    def signal(self, which: str, number: signal.Signals) -> None:
        """Send a signal to a process by name, or to all of a kind, and to their children.

        PostgreSQL's children are its backends.
        """
        for each in control.status(self.stack.folder):
            if which in (each["name"], each["kind"]):
                first = psutil.Process(each["pid"])
                for process in (first, *first.children(recursive=True)):
                    process.send_signal(number)

    @contextmanager
    def frozen(self, which: str) -> Iterator[None]:
        """Freeze a process, or all of a kind, with SIGSTOP while the block runs."""
        self.note_open_calls()
        self.signal(which, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(which, signal.SIGCONT)

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """Keep PostgreSQL down while the block runs.

        PostgreSQL refuses to start on a data directory that other users may read.
        """
        data = self.stack.plan.home / "postgres" / "data"
        data.chmod(0o755)
        self.kill("postgres")
        try:
            yield
        finally:
            data.chmod(0o700)

    def ready(self) -> None:
        """Wait until every process is ready."""
        wait(
            lambda: {each["state"] for each in control.status(self.stack.folder)} == {"ready"},
            "all processes are ready",
        )

    def calls(self) -> dict[str, Any]:
        """Return the sandbox's open calls, and the notifications in them."""
        with urllib.request.urlopen(
            f"{self.stack.plan.sandbox_url}/calls", timeout=ANSWER_SECONDS
        ) as answer:
            calls: dict[str, Any] = json.load(answer)
        return calls

    def metrics(self, kind: str) -> str:
        """Return the metrics page of the first process of a kind."""
        url = f"http://127.0.0.1:{self.stack.plan.health_port(kind)}/metrics"
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            page: str = answer.read().decode()
        return page

    def note_open_calls(self) -> None:
        """Remember the notifications that are in open provider calls now."""
        try:
            self.in_open_calls |= set(self.calls()["notification_ids"])
        except OSError:
            return

    def configure_sandbox(self, **settings: Any) -> None:
        """Change how the sandbox behaves."""
        request = urllib.request.Request(
            f"{self.stack.plan.sandbox_url}/_control",
            data=json.dumps(settings).encode(),
            method="PUT",
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return

    def throttle(self, a_second: float) -> None:
        """Limit the provider to this many messages a second."""
        self.configure_sandbox(quota_per_second=a_second)
        # A deliverer reads the account's rate only when it starts.
        self.signal("deliverer", signal.SIGTERM)
        time.sleep(1)
        self.ready()

    def bookings(self) -> dict[str, datetime]:
        """Return the time at which the provider booked each notification, by id."""
        ledger = self.stack.ledger()
        return {line["notification_id"]: datetime.fromisoformat(line["at"]) for line in ledger}

    def waits(self, result: Result) -> list[float]:
        """Return the seconds from acceptance to the provider's booking, for each notification."""
        accepted = dict(self.stack.sql("SELECT id::text, accepted_at FROM notifications"))
        booked = self.bookings()
        return [(booked[id] - accepted[id]).total_seconds() for id in result.ids]

    def check(self, result: Result) -> Findings:
        """Run the checks until none finds a fault, for at most QUIET_SECONDS; print the figures."""
        began = time.monotonic()
        self.ready()
        table = "SELECT to_regclass('notifications')"
        wait(lambda: self.stack.sql(table) != [(None,)], "the tables exist")
        findings = self._check(result)
        while findings.wrong() and time.monotonic() - began < QUIET_SECONDS:
            time.sleep(1)
            findings = self._check(result)
        report = {
            **result.summary(),
            "explained duplicates": len(findings.explained),
            "quiet after s": round(time.monotonic() - began, 1),
            "inside calls": len(self.in_open_calls),
            "wrong": findings.wrong(),
            "unfinished": self.stack.sql(
                "SELECT state, attempt, count(*) FROM notifications WHERE id = ANY(%s::uuid[]) "
                "GROUP BY state, attempt",
                list(findings.unfinished),
            ),
        }
        print(json.dumps(report))  # noqa: T201  # pytest shows it with a failed test
        REPORTS[self.fault] = report
        # Each service connects as a role with few rights. They must suffice in every fault.
        assert "permission denied" not in self.stack.plan.log("postgres").read_text()
        return findings

    def _check(self, result: Result) -> Findings:
        sql = self.stack.sql
        lines = self.stack.ledger()
        ledger = [Booked(str(e["notification_id"]), e["to"], e["body_hash"]) for e in lines]
        resent = "SELECT id, count(*) FROM events WHERE move = 'resent' AND made GROUP BY id"
        return check(
            result.ids,
            {str(id): state for id, state in sql("SELECT id, state FROM notifications")},
            {str(id): str(winner) for id, winner in sql("SELECT id, winner FROM aliases")},
            # Of records about a notification, the key is its id. Compared as text, as Postgres
            # shows ids.
            [
                str(UUID(bytes=each.key))
                for each in dead.letters(self.stack.installation)
                if len(each.key) == UUID_BYTES
            ],
            ledger,
            Counter({str(id): count for id, count in sql(resent)}),
        )
