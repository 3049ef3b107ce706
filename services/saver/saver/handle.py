"""What the saver does with a batch: make it durable, then say what follows."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from courant import metrics
from courant.consume import Stage, Steps
from courant.contracts import Notification, Started
from courant.lifecycle import Move, Report
from courant.records import Batch, Keep, Span, isolate
from courant.topics import DELIVERY, INBOX, RECEIPTS, Lane, Positions, group
from saver import rules
from saver.rules import ReportRecord

T = TypeVar("T")


class Fold(Protocol):
    """One transaction. What is done in it and Postgres's place in the log hold together or not."""

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        """Give those that no transaction before this one has folded."""

    def lock(self, ids: set[UUID]) -> set[UUID]:
        """Lock the rows, and give the ids that have none and, by the log, never will have.

        Raises Unavailable while one may still come: where Postgres went back, `delivery` and
        `receipts` tell of rows that are in the inbox, and not yet in it.
        """

    def save(self, notifications: Sequence[Notification]) -> Sequence[Notification]:
        """Insert those that are not there yet, all or none; raises Refused.

        Gives those that still wait for their first attempt, whoever inserted them.
        """

    def settle(
        self, rounds: Sequence[Sequence[Report]], opened: Sequence[Started], closed: Sequence[UUID]
    ) -> None:
        """Make each move that its row allows, open and close calls, all or none; raises Refused.

        A row is in a round once.
        """


class Store(Protocol):
    """What the saver needs of a database."""

    def compare(self, positions: Positions) -> None:
        """Raise Behind, and the hold that goes with it, where Postgres has not read so far."""

    def skip(self, starts: Positions) -> None:
        """Move the places on to where the log begins: what was before has left it."""

    def fold(self, span: Span) -> AbstractContextManager[Fold]:
        """Begin a transaction that moves Postgres's place past `span`; raises Behind likewise."""


ROWS_MAX = {Lane.PRIORITY: 2_000, Lane.NORMAL: 2_000, Lane.BULK: 500}
"""A batch: 28,000 rows/s where one of 500 gave 18,000, beside others' load (make bench). The bulk
lane takes smaller bites: for what is done at once the priority lane waits."""
CALLS_MAX = 100
"""A batch of `delivery`: each call may tell of fifty rows, and of bulk's most do."""


def stages(store: Store) -> list[Stage[Any]]:
    """Give everything the saver consumes, and what it does with it."""
    stage = partial(Stage, compare=store.compare, skip=store.skip)
    inbox = partial(stage, decide=rules.read_inbox, handle=partial(save, store))
    settle_all = partial(settle, store)
    return [
        *(
            inbox(group("saver", INBOX, lane), INBOX.topics(lane), limit=ROWS_MAX[lane])
            for lane in Lane
        ),
        stage(
            group("saver", DELIVERY),
            (DELIVERY.name,),
            rules.read_delivery,
            settle_all,
            limit=CALLS_MAX,
        ),
        stage(group("saver", RECEIPTS), (RECEIPTS.name,), rules.read_receipt, settle_all),
    ]


def save(store: Store, batch: Batch[Notification]) -> Steps:
    """Store the batch, and order to be sent what waits for its first attempt.

    That is also what an earlier saver stored and then died, before it could order it.
    """
    with metrics.FOLD_SECONDS.time(), store.fold(batch.span) as fold:
        waiting, dead = isolate(batch.kept, fold.save)
    metrics.MOVES.labels(Move.SAVED).inc(len(batch.kept) - len(dead))
    yield dead
    # What is scheduled gets its order from a sweep, when it is due.
    yield [rules.order(each) for each in waiting if each.scheduled_for is None]


def settle(store: Store, batch: Batch[ReportRecord]) -> Steps:
    """Make the moves that the batch tells of, each record's once.

    Twice would not be harmless: a `delivered` made again would undo the `delayed` that followed.
    """
    with metrics.FOLD_SECONDS.time(), store.fold(batch.span) as fold:
        fresh = fold.fresh(batch.kept)
        missing = fold.lock({id for each in fresh for id in rules.ids_of(each.value)})
        known, strange = rules.split_by_row(fresh, missing)
        _, dead = isolate(known, partial(fold_reports, fold))
        # Inside, since Postgres will be past them: nobody would see them again.
        yield [*strange, *dead]
    metrics.count(metrics.MOVES, (r.move for each in known for r in rules.reports(each.value)))


def fold_reports(fold: Fold, told: Sequence[ReportRecord]) -> Sequence[None]:
    """Tell Postgres; nothing follows."""
    fold.settle(rules.in_rounds(told), rules.calls_opened(told), rules.calls_closed(told))
    return ()
