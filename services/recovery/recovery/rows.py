"""What the sweeps read of rows and templates: as much as the next step of a row needs."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from courant.topics import Channel, Lane

NIL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class OverdueRow:
    """A row of `notifications` that needs its next step."""

    id: UUID
    attempt: int
    channel: Channel
    lane: Lane
    template_id: UUID
    template_version: int


@dataclass(frozen=True, slots=True)
class WaitLimit:
    """How many hours notifications of one version of a template may wait to be sent."""

    template_id: UUID
    template_version: int
    hours: int


@dataclass(frozen=True, slots=True)
class WaitingReceipt:
    """A receipt without our tags whose row was not known, and where and when it was read."""

    sns_id: str
    message_id: str
    value: bytes
    partition: int
    offset: int
    at: datetime
    is_old: bool  # it has waited as long as it may


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a walk through rows has come: the last row that it looked at."""

    since: datetime
    id: UUID
    service_id: UUID = NIL  # in a walk from service to service


FIRST_PLACE = Place(datetime(2000, 1, 1, tzinfo=UTC), NIL)
"""Before every row."""
