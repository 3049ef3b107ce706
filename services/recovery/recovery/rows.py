"""A row that stood still: as much of it as its next step needs."""

from dataclasses import dataclass
from uuid import UUID

from courant.topics import Channel, Lane


@dataclass(frozen=True, slots=True)
class OverdueRow:
    """A row of notifications."""

    id: UUID
    attempt: int
    channel: Channel
    lane: Lane
    template_id: UUID
    template_version: int


@dataclass(frozen=True, slots=True)
class OverdueGroup:
    """How long what a version of a template makes may wait to be sent."""

    template_id: UUID
    template_version: int
    hours: int
