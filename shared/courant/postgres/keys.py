"""The SQL on Idempotency-Keys that the saver and job-runner share."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

import msgspec
from psycopg2 import extensions

from courant.idempotency import Holder, Loser, confirm, judge
from courant.lifecycle import State
from courant.postgres.database import array
from courant.postgres.days import DEFINER

# Locks the row of each key, so that two processes judge one key one after the other. ORDER BY
# prevents a deadlock between two that lock the same keys.
LOCK = """
    INSERT INTO idempotency AS k (service_id, key_hash, id, body_hash, accepted_at, last_at)
    SELECT DISTINCT ON (service_id, key_hash) service_id, key_hash, id, body_hash, at, at
    FROM unnest(%s::uuid[], %s::bytea[], %s::uuid[], %s::bytea[], %s::timestamptz[])
        AS r (service_id, key_hash, id, body_hash, at)
    ORDER BY service_id, key_hash, at, id
    ON CONFLICT (service_id, key_hash) DO UPDATE SET id = k.id
    RETURNING service_id, key_hash, id, body_hash, accepted_at, last_at, earlier::text"""
LOCK_KNOWN = """
    SELECT FROM idempotency k JOIN unnest(%s::uuid[], %s::bytea[]) AS r (service_id, key_hash)
        USING (service_id, key_hash)
    ORDER BY service_id, key_hash FOR UPDATE OF k"""
STORE = """
    UPDATE idempotency
    SET id = %s, body_hash = %s, accepted_at = %s, last_at = %s, earlier = %s::jsonb
    WHERE service_id = %s AND key_hash = %s"""
# An id that lost its key may be the winner of others. They follow it to its own winner.
ALIAS = """
    WITH moved AS (UPDATE aliases SET winner = %(winner)s WHERE winner = %(id)s)
    INSERT INTO aliases (id, winner) VALUES (%(id)s, %(winner)s) ON CONFLICT DO NOTHING"""
WINNERS = "SELECT id, winner FROM aliases WHERE id = ANY(%s::uuid[])"

# It runs with its owner's rights. The saver may delete only a repetition of which nothing was sent:
# its record was read, and its row stored, before that of the request that it repeats.
GIVE_WAY_SIGNATURE = "courant_give_way(uuid[])"
GIVE_WAY = f"""
CREATE OR REPLACE FUNCTION courant_give_way(repetitions uuid[]) RETURNS void {DEFINER} AS $$
BEGIN
    DELETE FROM public.notifications n
    WHERE n.id = ANY(repetitions) AND n.state = '{State.CREATED}' AND n.attempt = 0
        AND EXISTS (SELECT FROM public.aliases a WHERE a.id = n.id);
END $$;
REVOKE ALL ON FUNCTION {GIVE_WAY_SIGNATURE} FROM PUBLIC"""  # noqa: S608  # ours

Key: TypeAlias = tuple[UUID, bytes]
ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder(list[Holder]).decode


class Request(NamedTuple):
    """A request that came with a key, of which nothing is stored yet."""

    service_id: UUID
    key_hash: bytes
    holder: Holder


def decide(
    cursor: extensions.cursor,
    requests: Sequence[Request],
    lock_movable: Callable[[set[UUID]], Collection[UUID]],
) -> list[Loser]:
    """Store which requests their keys stand for; return those that lost to others.

    `lock_movable` locks the rows of these ids and returns the ids of those that may give way.
    """
    found = _lock(cursor, requests)
    # Nearly every key is new, and stands for the one request that came with it.
    open_ = [r for r in requests if found[r[:2]] != [r.holder]]
    if not open_:
        return []
    movable = lock_movable({each.id for r in open_ for each in found[r[:2]]})
    losers: list[Loser] = []
    for service_id, key_hash, holder in sorted(open_, key=lambda r: r.holder.age):
        key = service_id, key_hash
        found[key], lost = judge(found[key], holder, movable)
        losers += lost
        _store(cursor, key, found[key])
    return losers


def lock_known(cursor: extensions.cursor, known: Collection[Key]) -> None:
    """Wait until nobody else judges these keys, as far as they are known."""
    services, hashes = zip(*known, strict=True)
    cursor.execute(LOCK_KNOWN, [list(services), list(hashes)])


def prefer(cursor: extensions.cursor, request: Request, loser: UUID) -> None:
    """Let the request's key stand for it and not for `loser`, which becomes an alias."""
    [holders] = _lock(cursor, [request]).values()
    _store(cursor, request[:2], confirm(holders, request.holder, loser))
    cursor.execute("DELETE FROM aliases WHERE id = %s", [request.holder.id])
    make_alias(cursor, Loser(loser, request.holder.id, same_body=True))


def _lock(cursor: extensions.cursor, requests: Sequence[Request]) -> dict[Key, list[Holder]]:
    columns = ((*r[:2], r.holder.id, r.holder.body, r.holder.at) for r in requests)
    cursor.execute(LOCK, [list(column) for column in zip(*columns, strict=True)])
    return {
        (service_id, bytes(key_hash)): [*DECODE(earlier), Holder(id, bytes(body), at, last)]
        for service_id, key_hash, id, body, at, last, earlier in cursor
    }


def _store(cursor: extensions.cursor, key: Key, holders: Sequence[Holder]) -> None:
    *earlier, newest = holders
    values = [newest.id, newest.body, newest.at, newest.last, ENCODE(earlier).decode()]
    cursor.execute(STORE, [*values, *key])


def make_alias(cursor: extensions.cursor, loser: Loser) -> None:
    """Make the loser's id another name of its winner."""
    cursor.execute(ALIAS, {"id": loser.id, "winner": loser.winner})


def winners(cursor: extensions.cursor, ids: Collection[UUID]) -> dict[UUID, UUID]:
    """Return the winner of each of these ids that lost its key."""
    cursor.execute(WINNERS, [array(ids)])
    return dict(cursor.fetchall())
