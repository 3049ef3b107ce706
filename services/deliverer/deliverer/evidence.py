"""Whose fault a refusal is: the message's own, or ours because everybody is refused alike.

A refusal alone proves neither. It is the message's own fault only if the provider accepted another
message after it and then refused this one again. Until then the message waits without blame.
Each process has one such memory for each provider; all lanes share it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from uuid import UUID

REFUSED_IN_A_ROW_MAX = 10
"""Distinct messages refused in a row that prove a fault of ours."""
ACCEPTED_BETWEEN_MAX = 3
"""Refusals with an acceptance of others before each that prove the message's own fault, even while
others are refused too. Otherwise a file of bad recipients would come around for days."""
ALONE_REFUSALS_MAX = 16
"""Refusals of a message beside which nothing is sent that count as its own fault. With the waits
between them they take at least four minutes."""
OTHERS_SECONDS = 10.0
"""Refusals of one service alone are no fault of ours while another service's messages were accepted
within this time."""
WAIT_FIRST = timedelta(seconds=2)
WAIT_LONGEST = timedelta(seconds=20)
SUSPECTS_MAX = 10_000
"""Refused messages to remember; of more, the oldest are forgotten and their count begins again."""


@dataclass(slots=True)
class Suspect:
    """A message that was refused."""

    refusals: int = 0
    accepted_between: int = 0  # how often others were accepted between two of its refusals
    moment: int = 0  # of its last refusal


class Evidence:
    """Remembers what a provider accepted and refused. Safe to use from any thread.

    A moment is a count of answers: a call that began at a moment came after every answer before it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._moment = 0
        self._accepted_from = -1  # the latest moment at which an accepted call began
        self._accepted_at: OrderedDict[UUID, float] = OrderedDict()  # of the last two services
        self._refused: dict[UUID, tuple[UUID, int]] = {}  # refused since then: service and moment
        self._suspects: OrderedDict[UUID, Suspect] = OrderedDict()

    def moment(self) -> int:
        """Return the moment at which a call begins."""
        with self._lock:
            return self._moment

    def accept(self, ids: Iterable[UUID], service: UUID, began: int) -> None:
        """Note that the provider accepted messages in a call that began at this moment."""
        with self._lock:
            self._moment += 1
            self._accepted_from = max(self._accepted_from, began)
            self._accepted_at[service] = self._now()
            self._accepted_at.move_to_end(service)
            if len(self._accepted_at) > 2:
                self._accepted_at.popitem(last=False)
            # Refusals that came after the call began are not disproved by it.
            self._refused = {id: each for id, each in self._refused.items() if each[1] > began}
            for id in ids:
                self._suspects.pop(id, None)

    def refuse(self, id: UUID, service: UUID, names_recipient: bool) -> timedelta | None:
        """Note a refusal; return None if it is the message's own fault, else how long to wait.

        `names_recipient`: the provider's words are about the recipient. They are believed at once
        if the answer before was an acceptance.
        """
        with self._lock:
            suspect = self._suspects.pop(id, None) or Suspect()
            suspect.refusals += 1
            suspect.accepted_between += 0 < suspect.moment <= self._accepted_from
            self._moment += 1
            suspect.moment = self._moment
            self._suspects[id] = suspect
            if len(self._suspects) > SUSPECTS_MAX:
                self._suspects.popitem(last=False)
            self._refused.pop(id, None)
            is_own_fault = self._is_own_fault(suspect, names_recipient)
            # Proven or not: of messages that are refused in a row, only the first is blamed.
            self._refused[id] = service, self._moment
            if is_own_fault:
                return None
            return min(WAIT_FIRST * (1 << min(suspect.refusals - 1, 10)), WAIT_LONGEST)

    def refuse_sender(self, id: UUID, service: UUID) -> None:
        """Note that a message was refused because of its sender; this never blames the message."""
        with self._lock:
            self._moment += 1
            self._refused[id] = service, self._moment

    def is_against_all(self, is_senders: bool = False) -> bool:
        """Return whether so many messages were refused in a row that the fault is ours.

        With `is_senders`, the refusals were about senders: then several services must be refused.
        """
        with self._lock:
            if len(self._refused) < REFUSED_IN_A_ROW_MAX:
                return False
            services = {service for service, _ in self._refused.values()}
            if len(services) > 1:
                return True
            others = [at for service, at in self._accepted_at.items() if service not in services]
            recent = bool(others) and self._now() - max(others) < OTHERS_SECONDS
            return not is_senders and not recent

    def is_silent(self) -> bool:
        """Return whether nothing was accepted within OTHERS_SECONDS."""
        with self._lock:
            latest = max(self._accepted_at.values(), default=None)
            return latest is None or self._now() - latest >= OTHERS_SECONDS

    def _is_own_fault(self, suspect: Suspect, names_recipient: bool) -> bool:
        if suspect.accepted_between >= ACCEPTED_BETWEEN_MAX:
            return True
        if self._refused:  # others were refused since the last acceptance
            alone = len(self._refused) < REFUSED_IN_A_ROW_MAX - 1
            return alone and suspect.refusals >= ALONE_REFUSALS_MAX
        believed = names_recipient and self._accepted_from >= 0
        return believed or suspect.accepted_between > 0 or suspect.refusals >= ALONE_REFUSALS_MAX
