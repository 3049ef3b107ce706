"""Which notification an Idempotency-Key stands for, as the saver decides it in its transaction."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from courant.contracts import Notification
from courant.idempotency import Holder
from courant.lifecycle import State
from courant.postgres import keys
from courant.postgres.database import array
from courant.postgres.folding import Cursor

# ruff: noqa: S608  (no part of the SQL that is assembled here comes from outside)

# A record whose id has a row or an alias is decided already, and is read again.
DECIDED = """
    SELECT id FROM aliases WHERE id = ANY(%(ids)s::uuid[])
    UNION ALL SELECT id FROM notifications WHERE id = ANY(%(ids)s::uuid[])"""
# A row that somebody else has locked does not give way: waiting for it would stop its partition.
# Nor does a row with reports that are set aside: they may say that it was sent.
MOVABLE = f"""
    SELECT id FROM notifications n
    WHERE state = '{State.CREATED}' AND attempt = 0 AND id = ANY(%s::uuid[])
        AND NOT EXISTS (SELECT FROM aside a WHERE a.id = n.id)
    ORDER BY id FOR UPDATE SKIP LOCKED"""
GIVE_WAY = "SELECT courant_give_way(%s::uuid[])"
DROP_ALIASES = "DELETE FROM incoming i USING aliases a WHERE a.id = i.id"


def judge(cursor: Cursor, keyed: Sequence[Notification]) -> list[UUID]:
    """Let each key stand for one of its requests. Returns ids that came with another body.

    A repetition becomes an alias and leaves the table `incoming` of the batch.
    """
    if not keyed:
        return []
    cursor.execute(DECIDED, {"ids": array({each.id for each in keyed})})
    decided = {id for (id,) in cursor}
    requests = [request(each) for each in keyed if each.id not in decided]
    if decided:
        # Another saver may be removing one of these rows. Its alias is seen below.
        again = {request(each)[:2] for each in keyed if each.id in decided}
        keys.lock_known(cursor, again)
    losers = keys.decide(cursor, requests, partial(lock_movable, cursor)) if requests else []
    repeated = [each for each in losers if each.same_body]
    for loser in repeated:
        keys.make_alias(cursor, loser)
    if repeated:
        # The order of a row that is removed here finds no row.
        cursor.execute(GIVE_WAY, [array(each.id for each in repeated)])
    if repeated or decided:
        cursor.execute(DROP_ALIASES)
    return [each.id for each in losers if not each.same_body]


def lock_movable(cursor: Cursor, ids: set[UUID]) -> set[UUID]:
    """Lock the rows that may still give way; return their ids."""
    cursor.execute(MOVABLE, [array(ids)])
    return {id for (id,) in cursor}


def request(each: Notification) -> keys.Request:
    """Return a notification as a request that its Idempotency-Key may stand for."""
    assert each.idempotency_key
    holder = Holder(each.id, each.body_hash or b"", each.accepted_at, each.accepted_at)
    return keys.Request(each.service_id, each.idempotency_key, holder)
