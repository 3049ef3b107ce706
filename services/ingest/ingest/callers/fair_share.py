"""Fair shares: a service that sends beyond its share goes one lane down while others send too.

A Kafka partition is first in, first out, so fairness must be decided before the record is written.
Each process counts alone, so with n processes a service's share is n times as large.
"""

from collections import defaultdict
from uuid import UUID

from courant import metrics
from courant.topics import Channel, Lane

ACTIVE_SECONDS = 60.0  # how long a service counts as sending after a notification
BURST_SECONDS = 1.0
"""How much of its share a service may use at once, in seconds.

If it could use a whole minute's share at once, the others would wait a minute whenever the
provider takes no more than that share.
"""
LOWER_LANE = {Lane.PRIORITY: Lane.NORMAL, Lane.NORMAL: Lane.BULK, Lane.BULK: Lane.BULK}


class FairShares:
    """Chooses lanes. Times are monotonic seconds, `share` is in notifications a minute."""

    def __init__(self, share: int) -> None:
        self._interval_seconds = 60 / share
        # The time up to which each service has already used its share in its own lane.
        self._used_until: dict[tuple[UUID, Channel], float] = {}
        # The last two services that sent, newest first, with the time.
        self._last: dict[Channel, list[tuple[UUID, float]]] = defaultdict(list)

    def choose_lane(self, service_id: UUID, channel: Channel, lane: Lane, seconds: float) -> Lane:
        """Return the lane for a notification whose template has `lane`, and count it."""
        if not self._others_send(service_id, channel, seconds):
            return lane
        used_until = max(self._used_until.get((service_id, channel), 0.0), seconds)
        if used_until > seconds + BURST_SECONDS:
            metrics.LANES_DOWN.labels(channel, lane).inc()
            return LOWER_LANE[lane]
        self._used_until[service_id, channel] = used_until + self._interval_seconds
        return lane

    def _others_send(self, service_id: UUID, channel: Channel, seconds: float) -> bool:
        others = [last for last in self._last[channel] if last[0] != service_id][:1]
        self._last[channel] = [(service_id, seconds), *others]
        return any(at > seconds - ACTIVE_SECONDS for _, at in others)
