"""Which requests with one Idempotency-Key are one request, from the requests' own times.

The order in which records are read decides nothing, unless something was sent already. So a
Postgres that reads the log again, in another order, comes to the same decisions.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

KEPT = timedelta(hours=48)
"""A key stands for the first request that came with it, and for its repetitions for so long."""
OTHER_BODY = "Idempotency-Key has been used with another body in the last 48 hours"
"""The reason of a request that lost its key to another one."""
REMEMBERED = timedelta(days=28)
"""How long an earlier holder of a key that is used again and again is kept: longer than the log can
bring back a repetition of its request."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A request that a key stands for, or stood for. It has a row, or a job."""

    id: UUID
    body: bytes  # the hash of its body
    at: datetime  # when it was accepted; its repetitions count from then
    last: datetime  # when the last of its repetitions was accepted

    @property
    def age(self) -> tuple[datetime, UUID]:
        """Return what sorts requests by acceptance."""
        return self.at, self.id


@dataclass(frozen=True, slots=True)
class Loser:
    """A request whose key stands for another request."""

    id: UUID
    winner: UUID
    same_body: bool  # it is a repetition of the winner
    late: bool = False  # it was accepted before the winner, of which something was sent already


def judge(
    holders: Sequence[Holder], new: Holder, movable: Container[UUID]
) -> tuple[list[Holder], list[Loser]]:
    """Return the key's holders after a request came, by age, and the requests that lost the key.

    `movable` has the ids of holders that can still give way, because nothing of them was sent.
    """
    by_id = {each.id: each for each in holders}
    losers: list[Loser] = []

    def done() -> tuple[list[Holder], list[Loser]]:
        kept = sorted(by_id.values(), key=lambda each: each.age)
        return [each for each in kept if each.last > kept[-1].last - REMEMBERED], losers

    def lose(winner: Holder) -> None:
        same = winner.body == new.body
        losers.append(Loser(new.id, winner.id, same, late=new.age < winner.age))
        if same:
            by_id[winner.id] = spanning(winner, new)

    if known := by_id.get(new.id):
        by_id[new.id] = spanning(known, new)
        return done()
    before = [each for each in holders if each.age < new.age and new.at < each.at + KEPT]
    if before:
        lose(before[0])
        return done()
    after = [each for each in holders if new.age < each.age and each.at < new.at + KEPT]
    # A holder with repetitions that are too late to be repetitions of the new request stands for
    # those: there were two requests, and two are sent.
    later = [each for each in after if each.last >= new.at + KEPT]
    rivals = [each for each in after if each not in later]
    if sent := [each for each in rivals if each.id not in movable]:
        lose(sent[0])
        return done()
    for each in later:
        by_id[each.id] = replace(each, at=each.last)
    for each in rivals:
        del by_id[each.id]
        same = each.body == new.body
        losers.append(Loser(each.id, new.id, same))
        new = spanning(new, each) if same else new
    by_id[new.id] = new
    return done()


def confirm(holders: Sequence[Holder], winner: Holder, loser: UUID) -> list[Holder]:
    """Return the key's holders after a record said that the key stands for `winner`, not `loser`.

    The loser was accepted before the winner, but came when something of the winner was sent.
    """
    for each in holders:
        if each.id in {winner.id, loser}:
            winner = spanning(winner, each)
    kept = [each for each in holders if each.id not in {winner.id, loser}]
    return sorted([*kept, winner], key=lambda each: each.age)


def spanning(holder: Holder, other: Holder) -> Holder:
    """Return the holder with a repetition of its request."""
    return replace(holder, at=min(holder.at, other.at), last=max(holder.last, other.last))
