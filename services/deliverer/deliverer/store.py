"""The deliverer's SQL: the claim, which is the only change of a row's state outside the saver."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from psycopg2 import extensions
from sqlalchemy import Engine

from courant.contracts import Command, KeyType
from courant.errors import Unavailable
from courant.lifecycle import VALID_HOURS, Move
from courant.postgres.database import FINGERPRINT, array, classified_errors, hold_after_restart
from courant.postgres.holds import Scope, channel_scope, lane_scope, sql_service_scope
from courant.postgres.jobs import sql_job_runs
from courant.topics import Channel, Lane
from deliverer.calls import ClaimedRow

log = logging.getLogger(__name__)

Cursor: TypeAlias = extensions.cursor

# ruff: noqa: S608  (the SQL is built only from our own constants)

COLUMNS = (
    "tries", "service_id", "key_type", "template_id", "template_version", "sender_id", "sealed",
    "accepted_at",
)  # fmt: skip
COLUMN_NAMES = ", ".join(f"n.{name}" for name in COLUMNS)
LANE_HOLDS = {Lane.PRIORITY: (), Lane.NORMAL: (), Lane.BULK: (Scope.JOBS,)}
"""The scopes of holds that stop one lane only."""
SINCE = "coalesce(n.scheduled_for, n.accepted_at)"
OLDEST = f"now() - make_interval(hours => coalesce(s.hours, {VALID_HOURS}))"
# `gate` always returns a row, so the claim itself reports why it took nothing. A separate query
# could run after the hold was lifted and find no reason; the orders would then be lost.
GATE = f"""
    gate AS MATERIALIZED (
        SELECT EXISTS (SELECT FROM servers WHERE id = ({FINGERPRINT})) AS known,
            (SELECT min(scope) FROM holds WHERE stands AND scope = ANY(%(scopes)s)) AS held,
            (SELECT coalesce(max(epoch), 0) FROM holds) AS epoch)"""
# Rows of a held service or of a job that does not run are skipped, because a sweep orders them
# again. Rows past their time limit are not sent late: the sweep `expired` ends them. It has the
# same rule for jobs: one that was resumed lately is not late.
CLAIMABLE = f"""
    SELECT n.id FROM gate CROSS JOIN notifications n
    LEFT JOIN unnest(%(templates)s::uuid[], %(versions)s::int[], %(hours)s::int[])
        AS s(template_id, template_version, hours) USING (template_id, template_version)
    WHERE gate.known AND gate.held IS NULL
        AND n.id = ANY(%(ids)s::uuid[])
        AND {Move.CLAIMED.condition()}
        AND NOT EXISTS (
            SELECT FROM holds WHERE stands AND scope = {sql_service_scope("n.service_id")})
        AND {sql_job_runs("n.job_id")}
        AND ({SINCE} > {OLDEST} OR EXISTS (SELECT FROM wishes w WHERE w.job_id = n.job_id
            AND w.wish = '{Command.RESUMED}' AND w.wished_at >= {OLDEST}))"""
# Rows are locked in the order of their ids, as the saver does; otherwise the two could deadlock. A
# row that somebody's forgotten session has locked is skipped, so that it does not stop the others.
# A join with `due` would search the index for all ids again for each row: 500 rows took 30 ms
# instead of 16 ms.
CLAIM = f"""
    WITH {GATE},
    due AS ({CLAIMABLE}
        ORDER BY n.id FOR UPDATE OF n SKIP LOCKED),
    claimed AS (
        UPDATE notifications n SET state = '{Move.CLAIMED.after}', state_at = now(),
            attempt = greatest(n.attempt + 1, gate.epoch), lease_until = now() + %(lease)s
        FROM gate WHERE n.id = ANY(ARRAY(SELECT id FROM due)) AND n.id = ANY(%(ids)s::uuid[])
        RETURNING n.id, n.attempt, {COLUMN_NAMES}),
    noted AS (
        INSERT INTO events (id, move, attempt) SELECT id, '{Move.CLAIMED}', attempt FROM claimed)
    SELECT gate.known, gate.held, claimed.* FROM gate LEFT JOIN claimed ON true"""
# In the claim's transaction, after it: what could be claimed still was locked.
LOCKED = f"WITH {GATE} {CLAIMABLE}"
LOCKED_TRIES = 5
LOCKED_PAUSE_SECONDS = 0.1
"""How often locked rows are tried again: a sweep holds its rows' locks for a moment after it wrote
their orders. A lock that lasts longer is a forgotten session's; sweeps order these rows again."""


class PostgresStore:
    """Claims rows in PostgreSQL."""

    def __init__(
        self,
        engine: Engine,
        lease: timedelta,
        short_lived: Callable[[], Mapping[tuple[UUID, int], int]] = dict,
    ) -> None:
        self._engine = engine
        self._lease = lease
        self._short_lived = short_lived  # the templates' versions with a time limit, in hours

    def claim(self, ids: Sequence[UUID], channel: Channel, lane: Lane) -> list[ClaimedRow]:
        """Claim those rows that are created and due, each for an attempt number never used before.

        Returns the rows in the order of the ids. Rows that another session has locked are left to
        the sweeps. Raises Unavailable under a hold of everything, of the channel or of the lane. On
        a server that was not seen before, it places the `rebuild` hold and raises Unavailable.
        """
        claimed, locked = self._claim(ids, channel, lane)
        for _ in range(LOCKED_TRIES):
            if not locked:
                break
            time.sleep(LOCKED_PAUSE_SECONDS)
            try:
                more, locked = self._claim(locked, channel, lane)
            except Unavailable:
                break  # the rows that are claimed already must be sent before their lease ends
            claimed += more
        if locked:
            log.warning("rows are locked by another session", extra={"rows": len(locked)})
        index = {id: number for number, id in enumerate(ids)}
        return sorted(claimed, key=lambda row: index[row.id])

    def _claim(
        self, ids: Sequence[UUID], channel: Channel, lane: Lane
    ) -> tuple[list[ClaimedRow], list[UUID]]:
        """Return the claimed rows, and the ids of those that another session has locked."""
        limits = self._short_lived()
        with classified_errors(), self._engine.begin() as connection:
            cursor: Cursor = connection.connection.cursor()  # type: ignore[assignment]
            scopes = [Scope.REBUILD, Scope.ALL, channel_scope(channel), lane_scope(lane)]
            values = {
                "ids": array(ids),
                "lease": self._lease,
                "scopes": [*scopes, *LANE_HOLDS[lane]],
                "templates": array(template for template, _ in limits),
                "versions": [version for _, version in limits],
                "hours": list(limits.values()),
            }
            cursor.execute(CLAIM, values)
            rows = cursor.fetchall()
            locked = []
            if len(rows) < len(ids) or not rows[0][2]:
                cursor.execute(LOCKED, values)
                locked = [id for (id,) in cursor]
        known, held = rows[0][:2]
        if not known:
            self._hold()
            raise Unavailable("Postgres is another server or was restarted: sending is on hold")
        if held:
            raise Unavailable(f"on hold: {held}")
        return [claimed_row(row[2:]) for row in rows if row[2] is not None], locked

    def _hold(self) -> None:
        with classified_errors(), self._engine.begin() as connection:
            cursor: Cursor = connection.connection.cursor()  # type: ignore[assignment]
            hold_after_restart(cursor)


def claimed_row(row: Sequence[Any]) -> ClaimedRow:
    """Build a ClaimedRow from the columns that the driver returned."""
    id, attempt, tries, service, key_type, template, version, sender, sealed, at = row
    return ClaimedRow(
        id,
        attempt,
        tries,
        service,
        KeyType(key_type),
        template,
        version,
        sender,
        bytes(sealed),
        at,
    )
