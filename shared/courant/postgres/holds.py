"""The scopes of holds: what a row of the table `holds` stops while it stands."""

from enum import StrEnum

from courant.topics import Channel, Lane


class Scope(StrEnum):
    """The scopes that name nothing else; the functions below write those of one channel and so on.

    `REBUILD` stops every claim and sweep after Postgres went back, until Postgres has folded again
    what it may lack. `JOBS` then stops the bulk lane until the jobs that were paused or cancelled
    are known again. `ALL` stops every claim and sweep; an operator raises and lifts it.
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
    """Return SQL for the scope of the service in `column`: its rows are passed over."""
    return f"'service:' || {column}"
