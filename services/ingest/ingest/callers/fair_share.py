"""Turns among services: what one sends beyond its share goes one lane down while others send too.

A log is first in, first out, so that turns must be taken before it. Counted in this process alone:
with n processes a service's share is n times as much.
"""

from collections import defaultdict
from uuid import UUID

from courant import metrics
from courant.topics import Channel, Lane

ACTIVE_SECONDS = 60.0  # for which a service counts as one that sends
BURST_SECONDS = 1.0
"""How much of its share a service may use at once. A whole minute's would be a minute's wait for
the others where the provider takes no more than the share."""
LOWER_LANE = {Lane.PRIORITY: Lane.NORMAL, Lane.NORMAL: Lane.BULK, Lane.BULK: Lane.BULK}


class FairShares:
    """Chooses lanes, by monotonic times in seconds; `share` is in notifications a minute."""

    def __init__(self, share: int) -> None:
        self._pause_seconds = 60 / share
        # When each service's share is used up to, if it goes on in its lane.
        self._used_until: dict[tuple[UUID, Channel], float] = {}
        # The last two that sent, the later one first, and when.
        self._last: dict[Channel, list[tuple[UUID, float]]] = defaultdict(list)

    def choose_lane(self, service_id: UUID, channel: Channel, lane: Lane, seconds: float) -> Lane:
        """Give the lane of a service's next notification, whose template has this one."""
        if not self._others_send(service_id, channel, seconds):
            return lane
        used_until = max(self._used_until.get((service_id, channel), 0.0), seconds)
        if used_until > seconds + BURST_SECONDS:
            metrics.LANES_DOWN.labels(channel, lane).inc()
            return LOWER_LANE[lane]
        self._used_until[service_id, channel] = used_until + self._pause_seconds
        return lane

    def _others_send(self, service_id: UUID, channel: Channel, seconds: float) -> bool:
        others = [each for each in self._last[channel] if each[0] != service_id][:1]
        self._last[channel] = [(service_id, seconds), *others]
        return any(at > seconds - ACTIVE_SECONDS for _, at in others)
