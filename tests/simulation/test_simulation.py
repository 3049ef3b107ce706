"""Whatever fault strikes, wherever: nothing is lost or sent twice, and each effect comes once."""

import json
import logging
from collections import Counter
from contextlib import suppress
from datetime import datetime
from itertools import count
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import courant.testing.store
from courant import consume, ids, records
from courant.lifecycle import Move
from courant.records import Outgoing
from courant.testing.builders import (
    DELIVERY,
    INBOX,
    PERSISTED,
    RECEIPTS,
    decided,
    id_of,
    notification,
    number_of,
    outgoing,
)
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.store import FakeFold, FakeStore
from courant.testing.tables import IN_DOUBT, Tables
from courant.testing.world import REPLACED, Crash, Fault, World
from deliverer import flight
from deliverer import rules as sending
from recovery import sweeps
from saver import handle, rules
from simulation import outside
from simulation.outside import AGAIN, GRACE, LIVES, Provider, first_of, keyed, life_of
from support.mistakes import replace

SAVED = (INBOX, DELIVERY, RECEIPTS)

HOPELESS = [
    Outgoing(INBOX, bytes(16), b"?"),
    outgoing(notification(99, reference="a\0b")),  # no Postgres text can hold it
    Outgoing(DELIVERY, bytes(16), b"{}"),
    outgoing(decided(99, Move.FREED, reason="a\0b")),
]
HURRY = 4  # rounds until all records are written
ROUNDS = 120  # a world that is not quiet after so many rounds never will be
QUIET = 12  # rounds without any change: a lease, a grace and a mark may take so long


class History(NamedTuple):
    """The notifications that clients wrote, by number, and the faults meanwhile."""

    accepted: list[int]
    hopeless: list[Outgoing]
    faults: list[tuple[int, Fault]]  # how many points to pass before it strikes
    late: list[int]  # how many ticks a message's receipts take
    put_off: list[int]  # how often ingest puts a message's receipts off, because it cannot verify
    again: list[tuple[int, int, int]]  # requests that come with a key again: see `coming`


# A rollback of Postgres often comes with another fault, so that other processes notice it while one
# is between its claim and its call.
BURSTS = [
    *((fault,) for fault in Fault),
    (Fault.TAIL, Fault.REBALANCE),
    (Fault.RESTORED, Fault.FREEZE),
    (Fault.ROLLBACK, Fault.REBALANCE),
    (Fault.ROLLBACK, Fault.FREEZE),
    (Fault.DELETION, Fault.CRASH),
]


def histories(
    bursts: list[tuple[Fault, ...]], again_max: int, put_off_max: int
) -> st.SearchStrategy[History]:
    """Return the histories with these faults, so many repetitions, and receipts put off."""
    return st.builds(
        History,
        st.lists(st.integers(0, len(LIVES) - 1), max_size=9, unique=True),
        st.lists(st.sampled_from(HOPELESS), max_size=4),
        st.lists(st.tuples(st.integers(0, 40), st.sampled_from(bursts)), max_size=6).map(
            lambda drawn: [
                (0 if later else places, fault)
                for places, burst in drawn
                for later, fault in enumerate(burst)
            ]
        ),
        st.lists(st.integers(0, 5), max_size=3),
        st.lists(st.integers(0, 3), max_size=put_off_max),
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 12)),
            max_size=again_max,
            unique_by=lambda each: each[:2],
        ),
    )


RARE = {*REPLACED, Fault.DELETION}
# Half of the histories have no rare fault, no repetition and no receipt put off. Otherwise these
# would leave too few histories for the mistakes that only the ordinary faults show.
HISTORIES = st.one_of(
    histories([burst for burst in BURSTS if not RARE & {*burst}], 0, 0), histories(BURSTS, 3, 2)
)


CALLS = [count(1)]
"""The numbers of the history's calls."""


@pytest.fixture(autouse=True)
def one_course(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chance out of the product, so that a history runs the same way each time."""
    monkeypatch.setattr(ids, "new", lambda _: UUID(int=next(CALLS[-1])))
    monkeypatch.setattr(flight, "jitter", lambda: 0.0)
    monkeypatch.setattr(sweeps, "ORDER_WAIT", 2 * outside.TICK)
    # Otherwise a history logs every batch that waits.
    logging.disable(logging.ERROR)


def coming_of(history: History) -> list[Outgoing]:
    """Return what ingest writes, in its order.

    Each of `again` names an accepted notification, 1 for its repetition after midnight or 2 for
    another request with its key two days later, and a place in the order. So a repetition may come
    before what it repeats, because another ingest was slow.
    """
    numbers = [*history.accepted]
    with_key = {history.accepted[nth] for nth, *_ in history.again if nth < len(history.accepted)}
    for nth, kind, place in history.again:
        if nth < len(history.accepted):
            numbers.insert(place, history.accepted[nth] + kind * AGAIN)
    given = [keyed(each) if each % AGAIN in with_key else notification(each) for each in numbers]
    return [*history.hopeless, *map(outgoing, given)]


def play(history: History) -> tuple[World, Provider]:
    """Run all services, one after another and through all faults, until nothing happens."""
    CALLS[:] = [count(1)]
    world = World(history.faults)
    provider = Provider(world, history.late, history.put_off)
    coming = coming_of(history)
    stages: list[consume.Stage[Any]] = [
        *(each for each in handle.stages(world.store) if {*each.topics} & {*SAVED}),
        *outside.stages(world, provider),
    ]

    members: dict[str, FakeConsumer] = {}  # those that are not at work now, by group

    def live(stage: consume.Stage[Any]) -> None:
        consumer = members.pop(stage.group, None)
        consumer = consumer or FakeConsumer(world.kafka, stage.group, stage.topics)
        consumer.empties = consumer.rests = 0
        turns = count()
        with suppress(Crash):
            consume.run(
                consumer,
                FakeProducer(world.kafka),
                stage,
                stopping=lambda: consumer.empties > 1 or consumer.rests > 2 or next(turns) > 99,
                comparing=lambda: True,
            )
            if stage.group not in members:
                members[stage.group] = consumer
                return
        consumer.leave()

    def meanwhile(fault: Fault) -> None:
        if fault is Fault.FREEZE:
            for stage in stages:
                world.kafka.rebalance(stage.group, [])
        # A freeze is long enough for a hold to be lifted, a lease to end and a row to be freed.
        # Other faults last one tick: less than a lease.
        for turn in range(9):
            world.clock += fault is Fault.FREEZE or turn == 4
            everybody()

    def everybody() -> None:
        provider.post()
        for stage in stages:
            live(stage)
        outside.recover(world)

    world.meanwhile = meanwhile
    seen: list[object] = []
    for _ in range(ROUNDS):
        world.clock += 1
        while coming and len(coming) > HURRY - world.clock:
            world.kafka.append(coming.pop(0))
        everybody()
        waits = sum(row.state == "claimed" for row in world.store.tables.rows.values())
        held = world.store.tables.held
        seen.append((len(world.journal), len(world.faults), len(provider.coming), waits, held))
        if not coming and not provider.coming and seen[-QUIET:] == seen[-1:] * QUIET:
            return world, provider
    raise AssertionError("the world is never quiet")


# The state that a receipt gives a sent notification, written a second time, independently of the
# product. Receipts count in the order of what they tell, whatever the order in which they came.
# Nothing undoes a permanent failure.
AFTER = {
    "sent": "sending",
    "delivered": "delivered",
    "delayed": "temporary-failure",
    "bounced": "permanent-failure",
}


def broken_promises(history: History) -> set[str]:
    """Return the promises that the durable records and rows break: losses, repetitions, haste."""
    try:
        world, provider = play(history)
    except AssertionError as error:
        return {str(error)}

    tables, log = world.store.tables, world.kafka.log
    replaced = bool(REPLACED & {fault for _, fault in history.faults})
    # Of a record that the log lost before it was folded, a saver may have had a copy in memory.
    lost = {id(record) for record in world.lost}
    accepted = coming_of(history)[len(history.hopeless) :]
    contracts = [
        {**of_first(json.loads(each.value)), "at": each.timestamp, "lost": id(each) in lost}
        for each in world.kafka.written
        if each.partition.topic == DELIVERY
    ]
    saved = [first_of(number_of(id)) for id in tables.rows]
    requested = {first_of(number_of(UUID(bytes=each.key))) for each in accepted}
    unsaved = {
        first_of(number_of(UUID(bytes=each.key)))
        for each in world.lost
        if each.partition.topic == INBOX and each.key != bytes(16)
    }
    begun_at = {each["call"]: each["at"] for each in contracts if each.get("kind") == "started"}
    begun = {each["call"]: each["attempts"] for each in contracts if each.get("kind") == "started"}
    ended = {each["call"]: each["answers"] for each in contracts if each.get("kind") == "outcomes"}
    cut_off = {call: attempts for call, attempts in begun.items() if call not in ended}
    maybe = {each["call"] for each in contracts if each.get("kind") == "outcomes" and each["lost"]}
    tried = Counter(
        (each["id"], each["attempt"])
        for attempts in begun.values()
        for each in attempts
        if not throttled(each["id"])
    )
    announced: dict[tuple[str, int], datetime] = {}  # when its first call began
    for call, attempts in begun.items():
        for each in attempts:
            key = each["id"], each["attempt"]
            announced[key] = min(begun_at[call], announced.get(key, begun_at[call]))
    unknown = {
        call
        for call, answers in ended.items()
        if "unknown" in {each["outcome"] for each in answers}
    }
    known = {
        (answer["id"], answer["attempt"]): each["at"]
        for each in contracts
        if each.get("kind") == "outcomes" and not each["lost"]
        for answer in each["answers"]
        if answer["outcome"] != "unknown"
    }
    resent = {
        (each["id"], each["attempt"]): each["at"]
        for each in contracts
        if each.get("kind") == "decided" and each["move"] in {"resent", "abandoned"}
    }
    contracts += [
        {**of_first(json.loads(each.value)), "lost": id(each) in lost}
        for each in world.kafka.written
        if each.partition.topic == RECEIPTS
    ]
    words = Counter(
        (t.get("says") or t.get("move"), t.get("id"), t.get("attempt")) for t in contracts
    )
    resent_times = Counter(number_of(UUID(id)) for id, _ in resent)
    receipts = [each for each in contracts if each.get("kind") == "receipt"]

    facts = Counter(world.journal)
    ordered = {name for kind, name in facts if kind == PERSISTED}
    moves = Counter(  # a row that came back moves once more
        # A repetition may be saved first and give way to its first request.
        (str(move), str(id) if move == Move.SAVED else first_id(str(id)), number)
        for move, id, number, moved in tables.events
        if moved and str(move) != "claimed" and id not in world.deleted
    )
    promises = {
        "all that is accepted is saved, each request once": (
            len(saved) == len({*saved}) and requested - unsaved <= {*saved} <= requested
        ),
        "nothing is ordered before it is saved": all(
            ("saved", id) in world.journal[: world.journal.index((PERSISTED, id))] for id in ordered
        ),
        "each record that cannot be saved becomes a dead letter": (
            sum(kind.endswith(".dead") for kind, _ in facts) == len(history.hopeless) or replaced
        ),
        "no attempt is used twice": all(times == 1 for times in tried.values()),
        "nothing is booked twice unless it was recorded as sent again": all(
            provider.booked[each] <= 1 + resent_times[each] for each in provider.booked
        ),
        "only a call in doubt is sent again, and after its lease and grace": all(
            at >= announced[each] + GRACE and (each not in known or known[each] >= at)
            for each, at in resent.items()
            # A log that lost records puts every claimed row in doubt, also one that was not
            # announced yet. Its deliverer then finds that its lease is over.
            if not (replaced and announced.get(each, at) >= at)
        ),
        "no call is sent again within the grace after its receipt was put off": all(
            not at - GRACE < put_off_at <= at or put_off_at >= announced[id, attempt] + GRACE
            for (id, attempt), at in resent.items()
            for receipt_of, put_off_at in provider.put_off_at
            if first_id(str(receipt_of)) == id
        ),
        "no call is open whose outcome is known": (
            {str(call) for call, _ in tables.calls if call.int < IN_DOUBT}
            <= cut_off.keys() | unknown | maybe
        ),
        "each notification ends in the right state": all(
            row.state in ends_of(first_of(number_of(id)), receipts)
            for id, row in tables.rows.items()
        ),
        "each call has its outcome, unless its process died": (
            len([call for call in cut_off if UUID(call) in provider.calls]) <= world.crashes
        ),
        "each record moves its row at most once": all(
            times <= max(1, words[move]) for move, times in moves.items()
        ),
        "Postgres knows its position": all(
            tables.positions.get(each, 0) == len(log[each])
            for each in world.kafka.partitions(INBOX, DELIVERY)
        ),
        "no hold is left standing": not tables.held,
    }
    return {promise for promise, kept in promises.items() if not kept}


def first_id(id: str) -> str:
    """Return a notification's id, or that of the one that it repeats."""
    number = number_of(UUID(id))
    return str(id_of(first_of(number))) if 0 <= number < 3 * AGAIN else id


def of_first(contract: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the ids of first requests instead of those of repetitions."""
    changed = {**contract}
    if "id" in contract:
        changed["id"] = first_id(contract["id"])
    for name in ("attempts", "answers"):
        if name in contract:
            changed[name] = [of_first(each) for each in contract[name]]
    return changed


def throttled(id: str) -> bool:
    """Return whether its attempt may be in two calls, because a throttled one is called again."""
    return "throttled" in life_of(number_of(UUID(id))).answers


def ends_of(number: int, receipts: list[dict[str, Any]]) -> set[str]:
    """Return the states in which a notification may end: several if the log lost its receipts."""
    if any(each["lost"] for each in receipts if each["id"] == str(id_of(number))):
        return {"sending", *AFTER.values()}
    return {end_of(number, receipts)}


def end_of(number: int, receipts: list[dict[str, Any]]) -> str:
    """Return the state in which a notification must end: its life's, or that of its receipts."""
    life = life_of(number)
    told = [each for each in receipts if each["id"] == str(id_of(number))]
    its = [each["says"] for each in sorted(told, key=happened_at)]
    if not life.receipts or not its:
        return life.end
    state = "sending"
    for says in its:
        if state != "permanent-failure":
            state = AFTER[says]
    return state


def happened_at(receipt: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(receipt["happened_at"])


# The same histories in each run, so that a run on another machine finds what this one finds.
@settings(
    max_examples=1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=HISTORIES)
def test_every_promise_is_kept(history: History) -> None:
    assert broken_promises(history) == set()


# For each mistake: the owner, the function, the right words, the wrong words.
MISTAKES: dict[str, tuple[Any, str, str, str]] = {
    "no flush": (consume, "write", "producer.flush()", "pass"),
    "flush given up": (
        consume,
        "write",
        "consumer.rest(progress.unacknowledged(unavailable))",
        "break",
    ),
    "commit before the records": (
        consume,
        "step",
        "write(consumer, producer, batch.dead, progress)",
        "consumer.commit(records)",
    ),
    "malformed records dropped": (
        consume,
        "step",
        "write(consumer, producer, batch.dead, progress)",
        "pass",
    ),
    "no seek back to Postgres's positions": (
        consume,
        "go_back",
        "consumer.seek(positions)",
        "pass",
    ),
    "idle partitions not compared": (
        consume,
        "step",
        "compare(consumer, stage, consumer.positions())",
        "pass",
    ),
    "log not compared": (consume, "compare", "if folded:", "if False:"),
    "position not set back": (
        consume,
        "cut",
        "stage.cut(Shortened(shortened.folded, firsts))",
        "pass",
    ),
    "set back to the log's end": (
        FakeConsumer,
        "firsts_after",
        'bisect_right(log, at, key=attrgetter("timestamp")) if at else len(log)',
        "len(log)",
    ),
    "claimed rows not in doubt": (FakeStore, "cut", "tables.open_all()", "pass"),
    "refused records dropped": (
        records,
        "_halve",
        '[Dead(batch[0].record, f"{refusal}: refused by the database")]',
        "[]",
    ),
    "half a batch dropped": (records, "_halve", "_halve(batch[middle:], act, trial)", "([], [])"),
    "records folded twice": (handle, "settle", "fold.fresh(batch.kept)", "batch.kept"),
    "missing rows not waited for": (FakeFold, "lock", "if missing and", "if False and"),
    "missing rows dropped": (handle, "settle", "*without_row, ", ""),
    "rounds in move order": (
        rules,
        "in_rounds",
        "for report_record in batch",
        "for report_record in sorted(batch, key=lambda each: [r.move for r in reports(each)])",
    ),
    "a row twice in a round": (rules, "in_rounds", "rounds[earlier[report.id]]", "rounds[0]"),
    "the receipt that comes last counts": (
        courant.testing.store,
        "outdated",
        "if report.judged_at is None or receipt_at is None",
        "if True",
    ),
    "receipts count from when they came": (
        rules,
        "read_receipt",
        "receipt.happened_at is None",
        "True",
    ),
    "calls not opened": (rules, "calls_opened", "isinstance(report_record, Started)", "False"),
    "calls not closed": (rules, "calls_closed", "isinstance(report_record, Outcomes)", "False"),
    "unknown closes the call": (rules, "calls_closed", "is not Outcome.UNKNOWN", "is not None"),
    "started ignored": (
        rules,
        "reports",
        "[Report(each.id, each.attempt, Move.STARTED) for each in report_record.attempts]",
        "[]",
    ),
    "no guard": (Move, "allows", "state in self.before and ", ""),
    "no fence": (Move, "allows", "self.guard.holds(attempt, reported)", "True"),
    "position moved outside the transaction": (
        FakeStore,
        "moving_on",
        "tables.move_on(each, stretch)",
        "self.tables.move_on(each, stretch)",
    ),
    "hold ignored": (FakeStore, "claim", "if tables.held", "if False"),
    "marks not emptied": (Tables, "hold", "self.marks = {}", "pass"),
    "sent before it is recorded": (flight.InFlightCalls, "steps", "*map(rules.started, calls)", ""),
    "unknown taken for not sent": (
        sending,
        "attempt_outcome",
        "outcome=Outcome.UNKNOWN, reason",
        "outcome=Outcome.DEFERRED, reason",
    ),
    "outcomes not recorded": (
        flight.InFlightCalls,
        "_finish_call",
        "self._pending.append(rules.finished(call.id, answers))",
        "pass",
    ),
    "attempt not recorded": (
        sending,
        "attempt_outcome",
        "id, attempt = row.id, row.attempt",
        "id, attempt = row.id, 1",
    ),
    "freed though a call is open": (
        sweeps,
        "never_started",
        "rows.unstarted(delivery, limit)",
        "rows.unstarted(delivery, limit) + rows.unresolved(delivery, delivery, limit)",
    ),
    "sent again without the grace": (
        sweeps,
        "unknown",
        "rules.silent_before(receipts, tools.grace, since)",
        "receipts",
    ),
    "receipts put off for nothing": (handle, "fold_all", "fold.restart_grace()", "pass"),
    "put off, and marks kept": (rules, "receipts_put_off", "and record.trouble", "and False"),
    "never freed": (sweeps, "never_started", "rows.unstarted(delivery, limit)", "[]"),
    "never resolved": (
        sweeps,
        "unknown",
        "rows.unresolved(min(delivery, silent), delivery, limit)",
        "[]",
    ),
    "due and not ordered": (sweeps, "due", "rows.due(limit)", "[]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_simulation_detects_the_mistake(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, *MISTAKES[mistake])
    if MISTAKES[mistake][0] is sweeps:
        outside.refresh_tasks(monkeypatch)
    find(
        HISTORIES,
        lambda history: bool(broken_promises(history)),
        settings=settings(max_examples=5000, phases=[Phase.generate], database=None),
        random=Random(1),
    )
