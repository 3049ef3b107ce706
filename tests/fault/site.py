"""A running stack under load, what can befall it, and the questions at the end."""

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psutil

from courant.topics import Channel
from courant_cli import dead
from courant_cli.load import Load, Result, run, to
from courant_local import control
from fault.questions import Booked, Found, ask
from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

QUIET_SECONDS = 480.0
"""A call that died is silent for its lease and grace, an order that was lost for a minute, and both
begin anew when the next fault strikes; on a busy machine all of it takes longer."""
REPORTS: dict[str, dict[str, Any]] = {}
"""What was seen, by the name of the fault; the table at the end is made of it."""


def together(*results: Result) -> Result:
    """Give several loads as one."""
    everything = Result()
    for each in results:
        everything.ids += each.ids
        everything.statuses += each.statuses
        everything.latencies += each.latencies
    return everything


class Site:
    """A stack, and a hand on its processes."""

    def __init__(self, stack: Stack, fault: str) -> None:
        self.stack = stack
        self.fault = fault
        self.inside: set[str] = set()  # that were in a provider's call when a fault struck

    @contextmanager
    def load(
        self, rate: float, seconds: float, template_id: str = "", key: str = ""
    ) -> Iterator[Result]:
        """Send a load meanwhile; the result is whole when the block is left.

        It lasts longer than it should where requests wait for a broken connection, or the rate is
        more than can be accepted.
        """
        known = self.stack.variables
        asked = Load(
            url=self.stack.url,
            key=key or known["COURANT_API_KEY"],
            template_id=template_id or known["COURANT_EMAIL_TEMPLATE_ID"],
            channel=Channel.EMAIL,
            count=int(rate * seconds),
            rate=rate,
            connections=32,
            recipient=to(Channel.EMAIL),
        )
        result = Result()
        thread = threading.Thread(target=lambda: asyncio.run(run(asked, result=result)))
        thread.start()
        try:
            yield result
        finally:
            thread.join()

    def kill(self, *kinds: str) -> None:
        """End every process of these kinds at once, as kill -9 does; the supervisor starts anew."""
        self.look_inside()
        found = [each for each in control.status(self.stack.folder) if each["kind"] in kinds]
        assert {each["kind"] for each in found} == set(kinds)
        for each in found:
            os.kill(each["pid"], signal.SIGKILL)

    def signal(self, which: str, number: signal.Signals) -> None:
        """Signal a process by name, or all of a kind, and their children: PostgreSQL has many."""
        for each in control.status(self.stack.folder):
            if which in (each["name"], each["kind"]):
                first = psutil.Process(each["pid"])
                for process in (first, *first.children(recursive=True)):
                    process.send_signal(number)

    @contextmanager
    def still(self, which: str) -> Iterator[None]:
        """Stop a process, or all of a kind, where it is, meanwhile; what others do goes on."""
        self.look_inside()
        self.signal(which, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(which, signal.SIGCONT)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Take PostgreSQL away meanwhile: it starts on no folder that others may read."""
        data = self.stack.plan.home / "postgres" / "data"
        data.chmod(0o755)
        self.kill("postgres")
        try:
            yield
        finally:
            data.chmod(0o700)

    def ready(self) -> None:
        """Wait until every process is."""
        wait(
            lambda: {each["state"] for each in control.status(self.stack.folder)} == {"ready"},
            "all processes are ready",
        )

    def calls(self) -> dict[str, Any]:
        """Ask the sandbox what is inside its calls."""
        with urllib.request.urlopen(
            f"{self.stack.plan.sandbox_url}/calls", timeout=ANSWER_SECONDS
        ) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def look_inside(self) -> None:
        """Note what is inside provider calls now."""
        try:
            self.inside |= set(self.calls()["notification_ids"])
        except OSError:
            return

    def order(self, **orders: Any) -> None:
        """Give the sandbox its orders."""
        request = urllib.request.Request(
            f"{self.stack.plan.sandbox_url}/_control",
            data=json.dumps(orders).encode(),
            method="PUT",
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return

    def throttle(self, a_second: float) -> None:
        """Let the provider take so many a second."""
        self.order(quota_per_second=a_second)
        # It reads the account's rate when it starts.
        self.signal("deliverer", signal.SIGTERM)
        time.sleep(1)
        self.ready()

    def bookings(self) -> dict[str, datetime]:
        """Give when the provider booked each notification."""
        booked = self.stack.ledger()
        return {each["notification_id"]: datetime.fromisoformat(each["at"]) for each in booked}

    def waits(self, result: Result) -> list[float]:
        """Give each one's seconds from its acceptance until the provider booked it."""
        accepted = dict(self.stack.sql("SELECT id::text, accepted_at FROM notifications"))
        booked = self.bookings()
        return [(booked[id] - accepted[id]).total_seconds() for id in result.ids]

    def ask(self, result: Result) -> Found:
        """Wait until it is quiet, then put the questions; prints what was seen."""
        began = time.monotonic()
        self.ready()
        table = "SELECT to_regclass('notifications')"
        wait(lambda: self.stack.sql(table) != [(None,)], "the tables are there")
        found = self._questions(result)
        while found.wrong() and time.monotonic() - began < QUIET_SECONDS:
            time.sleep(1)
            found = self._questions(result)
        told = {
            **result.summary(),
            "explained duplicates": len(found.explained),
            "quiet after s": round(time.monotonic() - began, 1),
            "inside calls": len(self.inside),
            "wrong": found.wrong(),
            "unfinished": self.stack.sql(
                "SELECT state, attempt, count(*) FROM notifications WHERE id = ANY(%s::uuid[]) "
                "GROUP BY state, attempt",
                list(found.unfinished),
            ),
        }
        print(json.dumps(told))  # noqa: T201  # shown with a test that fails
        REPORTS[self.fault] = told
        # Each service connects as a role that may do little: whatever befell it, that was enough.
        assert "permission denied" not in self.stack.plan.log("postgres").read_text()
        return found

    def _questions(self, result: Result) -> Found:
        sql = self.stack.sql
        lines = self.stack.ledger()
        ledger = [Booked(str(e["notification_id"]), e["to"], e["body_hash"]) for e in lines]
        resent = "SELECT id, count(*) FROM events WHERE move = 'resent' AND made GROUP BY id"
        return ask(
            result.ids,
            {str(id): state for id, state in sql("SELECT id, state FROM notifications")},
            {str(id): str(winner) for id, winner in sql("SELECT id, winner FROM aliases")},
            [each.key.hex() for each in dead.letters(self.stack.installation)],
            ledger,
            Counter({str(id): count for id, count in sql(resent)}),
        )
