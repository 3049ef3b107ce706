"""The scopes of holds: what a row of the table `holds` stops while it stands."""

from enum import StrEnum

from courant.topics import Channel, Lane


class Scope(StrEnum):
    """The fixed scopes; the functions below return those of one channel, lane or service.

    `REBUILD` stops every claim and sweep after Postgres lost commits, until Postgres has folded the
    missing records again. `JOBS` then stops the bulk lane until it is known again which jobs were
    paused or cancelled. `ALL` stops every claim and sweep; an operator raises and lifts it.
    """

    REBUILD = "rebuild"
    JOBS = "jobs"
    ALL = "all"


def channel_scope(channel: Channel) -> str:
    """Return the scope of a hold that stops one channel's claims."""
    return f"channel:{channel}"


def lane_scope(lane: Lane) -> str:
    """Return the scope of a hold that stops one lane's claims."""
    return f"lane:{lane}"


def sql_channel_scope(column: str) -> str:
    """Return SQL for the scope of the channel in `column`."""
    return f"'channel:' || {column}"


def sql_service_scope(column: str) -> str:
    """Return SQL for the scope of the service in `column`; a claim skips the service's rows."""
    return f"'service:' || {column}"
