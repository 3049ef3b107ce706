"""Posts receipts: reads the ledger, posts to the receiver, retries as SNS does.

The ledger's file itself is the queue: at most `OPEN_MESSAGES_MAX` messages are in memory, and the
others are read when there is room. A file beside the ledger holds the position up to which all
receipts are taken. After a restart, receipts that were not taken are posted again, and some that
were: SNS does not promise single delivery either.
"""

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path

import httpx2

from courant_sandbox import events, metrics
from courant_sandbox.faults import Control
from courant_sandbox.ledger import Ledger
from courant_sandbox.messages import Entry
from courant_sandbox.recipients import behaviour
from courant_sandbox.sns import Post, Topic

log = logging.getLogger(__name__)

WORKERS = 8
OPEN_MESSAGES_MAX = 20_000
READ_MESSAGES = 1_000
# SNS waits 20 s between its retries. Shorter here, because a fault run would take an hour
# otherwise.
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 5.0
GIVE_UP_SECONDS = 3600.0
POST_TIMEOUT_SECONDS = 15.0
CONFIRMATION_AGAIN_SECONDS = 5.0
MARK_EVERY_SECONDS = 1.0


class PendingMessage:
    """A message in memory: `end` is where its line ends, `left` the number of posts outstanding."""

    __slots__ = ("end", "left")

    def __init__(self, end: int) -> None:
        self.end = end
        self.left = 0


class Event:
    """One receipt to post. Its post is built when it is first due, and kept for retries."""

    __slots__ = ("entry", "first_at", "kind", "pending", "post", "tries")

    def __init__(self, pending: PendingMessage, entry: Entry, kind: str) -> None:
        self.pending = pending
        self.entry = entry
        self.kind = kind
        self.post: Post | None = None
        self.tries = 0
        self.first_at = 0.0


class ReceiptPoster:
    """Posts receipts: `offer` accepts booked messages, and `run` posts until it is cancelled."""

    def __init__(
        self,
        url: str,
        topic: Topic,
        ledger: Ledger,
        control: Control,
        now: Callable[[], datetime],
        delay_seconds: float = 0.05,
        share: float = 1.0,
    ) -> None:
        self._url = url
        self._topic = topic
        self._ledger = ledger
        self._control = control
        self._now = now
        self._delay_seconds = delay_seconds
        self._share = share
        self._mark = ledger.path.with_suffix(".taken")
        self._admitted = self._marked = _mark(self._mark, ledger.size_bytes)
        self._behind = self._admitted < ledger.size_bytes
        # At once: otherwise a process killed before anything was taken would have nothing to post
        # again.
        self._write_mark()
        self._open: deque[PendingMessage] = deque()
        self._due: list[tuple[float, int, Event]] = []
        self._numbers = count()
        self._more = asyncio.Event()
        self._failures = 0

    def offer(self, entries: Sequence[Entry], ends: Sequence[int]) -> None:
        """Accept newly booked messages; above the limit only the ledger's file keeps them."""
        if self._behind or len(self._open) + len(entries) > OPEN_MESSAGES_MAX:
            self._behind = True
            return
        self._admit(zip(entries, ends, strict=True))

    async def run(self) -> None:
        limits = httpx2.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
        async with httpx2.AsyncClient(limits=limits, timeout=POST_TIMEOUT_SECONDS) as client:
            await self._subscribe(client)
            async with asyncio.TaskGroup() as tasks:
                ready: asyncio.Queue[Event] = asyncio.Queue(WORKERS)
                tasks.create_task(self._hand_out(ready))
                tasks.create_task(self._keep_mark())
                for _ in range(WORKERS):
                    tasks.create_task(self._work(client, ready))

    async def _subscribe(self, client: httpx2.AsyncClient) -> None:
        """Ask until the receiver confirms the subscription; nothing else is sent before."""
        pause = BACKOFF_FIRST_SECONDS
        while not self._topic.confirmed.is_set():
            status = await self._send(client, self._topic.confirmation())
            taken = status is not None and 200 <= status < 300
            wait = CONFIRMATION_AGAIN_SECONDS if taken else pause
            pause = min(pause * 2, BACKOFF_MAX_SECONDS)
            try:
                await asyncio.wait_for(self._topic.confirmed.wait(), wait)
            except TimeoutError:
                continue
        log.info("receipts' subscription confirmed")
        await self._send(client, self._topic.notification(events.VALIDATED, "2"))

    def _admit(self, messages: "Sequence[tuple[Entry, int]] | zip[tuple[Entry, int]]") -> None:
        clock = asyncio.get_running_loop().time()
        for entry, end in messages:
            pending = PendingMessage(end)
            self._open.append(pending)
            self._admitted = end
            if entry.api != "Publish" and _within(entry.message_id, self._share):
                self._schedule(pending, entry, clock)
        metrics.receipts_waiting.set(len(self._open))
        self._more.set()

    def _schedule(self, pending: PendingMessage, entry: Entry, clock: float) -> None:
        faults = self._control.of(entry.channel).events
        own = behaviour(entry.channel, entry.to)
        delay = self._delay_seconds if faults.delay_seconds is None else faults.delay_seconds
        due = clock + own.late_seconds
        for kind in events.kinds(entry, faults.kinds):
            due += delay
            for _ in range(2 if faults.double else own.times):
                if faults.drop_share and random.random() < faults.drop_share:  # noqa: S311 (no secret)
                    metrics.receipts.labels("dropped").inc()
                    continue
                pending.left += 1
                stray = random.uniform(0, delay * 4) if faults.shuffle else 0.0  # noqa: S311 (no secret)
                heapq.heappush(
                    self._due, (due + stray, next(self._numbers), Event(pending, entry, kind))
                )

    async def _hand_out(self, ready: "asyncio.Queue[Event]") -> None:
        """Hand events to the workers as they fall due, and read more from the ledger."""
        clock = asyncio.get_running_loop().time
        while True:
            self._more.clear()
            if self._behind and len(self._open) <= OPEN_MESSAGES_MAX - READ_MESSAGES:
                found = self._ledger.entries(self._admitted, READ_MESSAGES)
                self._behind = len(found) == READ_MESSAGES
                self._admit(found)
            self._settle()
            if self._due and self._due[0][0] <= clock():
                await ready.put(heapq.heappop(self._due)[2])
                continue
            wait = min(self._due[0][0] - clock(), 1.0) if self._due else 1.0
            try:
                await asyncio.wait_for(self._more.wait(), wait)
            except TimeoutError:
                continue

    async def _work(self, client: httpx2.AsyncClient, ready: "asyncio.Queue[Event]") -> None:
        while True:
            event = await ready.get()
            if self._failures >= WORKERS:
                # The receiver is down, and no single receipt is at fault: a few posts probe it, the
                # others wait.
                await asyncio.sleep(_backoff(self._failures // WORKERS))
            await self._deliver(client, event)

    async def _deliver(self, client: httpx2.AsyncClient, event: Event) -> None:
        clock = asyncio.get_running_loop().time()
        if event.post is None:
            faults = self._control.of(event.entry.channel).events
            written = events.message(event.entry, event.kind, self._now())
            event.post = self._topic.notification(written, faults.signature_version)
            event.first_at = clock
        status = await self._send(client, event.post)
        if status is None or status >= 500:
            self._failures += 1
            event.tries += 1
            if clock - event.first_at < GIVE_UP_SECONDS:
                metrics.receipts.labels("again").inc()
                due = clock + _backoff(event.tries)
                heapq.heappush(self._due, (due, next(self._numbers), event))
                self._more.set()
                return
            metrics.receipts.labels("given-up").inc()
        else:
            self._failures = 0
            taken = 200 <= status < 300
            metrics.receipts.labels("taken" if taken else "refused").inc()
            if taken:
                self._ledger.note_receipt(event.entry.message_id, event.kind)
        event.pending.left -= 1

    async def _send(self, client: httpx2.AsyncClient, post: Post) -> int | None:
        """Post, and return the status; None if there was no answer."""
        try:
            answer = await client.post(self._url, content=post.body, headers=post.headers)
        except httpx2.TransportError:
            return None
        return answer.status_code

    def _settle(self) -> None:
        """Advance past the messages without outstanding posts, up to the first that has one."""
        while self._open and self._open[0].left == 0:
            self._marked = self._open.popleft().end
        metrics.receipts_waiting.set(len(self._open))

    async def _keep_mark(self) -> None:
        written = -1
        while True:
            self._settle()
            if self._marked != written:
                written = self._marked
                self._write_mark()
            await asyncio.sleep(MARK_EVERY_SECONDS)

    def _write_mark(self) -> None:
        part = self._mark.with_suffix(".part")
        part.write_text(f"{self._marked}\n")
        part.replace(self._mark)


def _backoff(tries: int) -> float:
    return min(BACKOFF_FIRST_SECONDS * 2.0 ** min(tries - 1, 10), BACKOFF_MAX_SECONDS)


def _within(message_id: str, share: float) -> bool:
    """Choose by the id, not by chance, so that a restart chooses the same messages."""
    return share >= 1.0 or _fraction(message_id) < share


def _fraction(message_id: str) -> float:
    digits = message_id.removesuffix("-000000")[-8:]
    return int(digits, 16) / 16**8


def _mark(path: Path, size_bytes: int) -> int:
    """Read the position up to which all receipts are taken.

    Without a position, or with that of another file, it starts from the ledger's end.
    """
    if not path.exists():
        return size_bytes
    text = path.read_text().strip()
    return min(int(text), size_bytes) if text.isdecimal() else size_bytes
