"""The saver's stages. Each makes a batch durable in Postgres, then yields what follows from it."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from courant import clock, ids, metrics
from courant.consume import Stage, Steps, every
from courant.contracts import Attempt, Notification, Receipt, Started, UntaggedReceipt
from courant.errors import Refused, Shortened, Unfit
from courant.lifecycle import Move, Report
from courant.records import Batch, Keep, Record, Span, isolate
from courant.runbooks import Runbook
from courant.topics import DELIVERY, INBOX, RECEIPTS, Folded, Lane, Partition, Positions, group
from saver import blame, rules
from saver.rules import ReportRecord

T = TypeVar("T")
log = logging.getLogger(__name__)


class Refold(Protocol):
    """What is folded again after `courant restore`. Only rows that were gone make those moves."""

    @property
    def below(self) -> Positions:
        """The partitions in which records are folded again: those before these offsets."""

    def stayed(self, ids: set[UUID]) -> set[UUID]:
        """Return the ids whose rows were there all the time, so they have made these moves."""


class Fold(Protocol):
    """One transaction. Its changes and Postgres's position in the log commit together."""

    def fresh(self, kept: Sequence[Keep[T]]) -> list[Keep[T]]:
        """Return the records that no earlier transaction has folded."""

    def find(self, message_ids: set[str], since: UUID) -> Mapping[str, Attempt]:
        """Return the rows with ids from `since` that have these ids of the provider."""

    def wait(self, receipts: Sequence[Keep[UntaggedReceipt]]) -> None:
        """Keep receipts whose row is not known, until recovery finds it or gives up."""

    def refold(self) -> Refold:
        """Return what this transaction folds again after `courant restore`."""

    def lock(self, ids: set[UUID]) -> tuple[set[UUID], Mapping[UUID, UUID]]:
        """Lock the rows of these ids. Returns the ids that have no row and never will, and winners.

        An id that lost its Idempotency-Key has the row of its winner.

        Raises Unavailable while a missing row may still come: after Postgres went back, `delivery`
        and `receipts` report on rows that are in the inbox but not yet folded again.
        """

    @property
    def locked(self) -> Collection[UUID]:
        """The rows that `lock` could not lock, because another session keeps them locked."""

    def put_aside(self, reports: Sequence[tuple[Record, Report]]) -> None:
        """Keep reports on locked rows, to be folded before any later report on these rows."""

    def save(self, notifications: Sequence[Notification]) -> Sequence[Notification]:
        """Insert the notifications that have no row yet, all or none; raises Refused.

        Returns those that wait for their first attempt, even if an earlier saver inserted them.
        """

    def settle(
        self, rounds: Sequence[Sequence[Report]], opened: Sequence[Started], closed: Sequence[UUID]
    ) -> None:
        """Make each move that its row allows, open and close calls, all or none; raises Refused.

        A row may appear only once in a round.
        """

    def trial(self) -> AbstractContextManager[None]:
        """Undo at its end whatever is done inside."""

    def restart_grace(self) -> None:
        """Delete the marks of `receipts`: until now, the lack of a receipt proves nothing."""


class Store(Protocol):
    """What the saver needs from its database."""

    def compare(self, positions: Positions) -> Mapping[Partition, Folded]:
        """Return Postgres's positions; raises Behind, and a hold, if one is before `positions`."""

    def cut(self, shortened: Shortened) -> None:
        """Raise the hold and set positions back, because the log lost records."""

    def skip(self, starts: Positions) -> None:
        """Move Postgres's positions to the log's start: earlier records are deleted."""

    def fold_aside(self) -> Sequence[Any] | None:
        """Fold what was set aside for rows that are free again.

        Returns the sessions that lock the others' rows; None if nothing was set aside.
        """

    def fold(self, span: Span) -> AbstractContextManager[Fold]:
        """Begin a transaction that moves Postgres's position in the log past `span`'s records.

        Raises Behind if Postgres's position is before `span`, Shortened if a record below it is
        new.
        """


ROWS_MAX = {Lane.PRIORITY: 2_000, Lane.NORMAL: 2_000, Lane.BULK: 500}
"""Rows in one batch. Measured beside other load: 28,000 rows/s with 2,000, 18,000 with 500
(make bench). The bulk lane's batches are smaller because the priority lane waits while one runs."""
TOLD_EVERY = timedelta(seconds=10)
CALLS_MAX = 100
"""Records of `delivery` in one batch. Each may report on 50 rows; most of the bulk lane's do."""


def stages(store: Store) -> list[Stage[Any]]:
    """Return a stage for each consumer group of the saver."""
    stage = partial(Stage, compare=store.compare, cut=store.cut, skip=store.skip)
    inbox = partial(stage, decide=rules.read_inbox, handle=partial(save, store))
    return [
        *(
            inbox(group("saver", INBOX, lane), INBOX.topics(lane), limit=ROWS_MAX[lane])
            for lane in Lane
        ),
        stage(
            group("saver", DELIVERY),
            (DELIVERY.name,),
            rules.read_delivery,
            partial(settle, store),
            compare=partial(compare_and_fold_aside, store, every(TOLD_EVERY)),
            limit=CALLS_MAX,
        ),
        stage(
            group("saver", RECEIPTS), (RECEIPTS.name,), rules.read_receipt, partial(settle, store)
        ),
    ]


def compare_and_fold_aside(
    store: Store, tell: Callable[[], bool], positions: Positions
) -> Mapping[Partition, Folded]:
    """Compare the positions, then fold what waits for a row that was locked."""
    folded = store.compare(positions)
    blockers = store.fold_aside()
    metrics.LOCKED_ROWS.set(blockers is not None)
    if blockers is not None and tell():
        fields = {"sessions": [str(each) for each in blockers], "runbook": Runbook.ROWS_LOCKED}
        log.error("another session keeps rows locked", extra=fields)
    return folded


def save(store: Store, batch: Batch[Notification]) -> Steps:
    """Store the batch, then order the sending of each row that waits for its first attempt.

    This covers rows that an earlier saver stored before it died without ordering them.
    """
    with metrics.FOLD_SECONDS.time(), store.fold(batch.span) as fold:
        waiting, dead = isolate(batch.kept, fold.save, partial(try_ordinary, fold))
    metrics.MOVES.labels(Move.SAVED).inc(len(batch.kept) - len(dead))
    yield dead
    yield rules.orders(waiting, clock.now())


def settle(store: Store, batch: Batch[ReportRecord]) -> Steps:
    """Make the moves that the batch reports, once for each record.

    Folding a record twice does harm: a second `delivered` would undo the `delayed` that followed.
    """
    with metrics.FOLD_SECONDS.time(), store.fold(batch.span) as fold:
        fresh = find_rows(fold, fold.fresh(batch.kept))
        missing, winners = fold.lock({id for each in fresh for id in rules.ids_of(each.value)})
        known, without_row = rules.split_by_row(fresh, missing)
        known = rules.follow(known, winners)
        dead = []
        for records, stayed in apart(fold.refold(), known):
            locked = set(fold.locked) - stayed
            fold.put_aside(rules.reports_on(records, locked))
            fold_them = partial(fold_reports, fold, without=stayed | locked)
            dead += isolate(records, fold_them, partial(try_plain, fold))[1]
        # The dead letters must be durable before the commit: afterwards Postgres's position is past
        # these records, and they would never be read again.
        yield [*without_row, *dead]
    metrics.count(metrics.MOVES, (r.move for record in known for r in rules.reports(record.value)))


def find_rows(fold: Fold, kept: list[Keep[ReportRecord]]) -> list[Keep[ReportRecord]]:
    """Find the row of each receipt that names none; receipts whose row is not known wait.

    The call's outcome, which brings the row its message id, may be folded just now in another
    transaction. Neither of the two sees the other then, so recovery looks again, and again later.
    """
    untagged = rules.untagged(kept)
    if not untagged:
        return kept
    # By the time of the records, so that reading them again next week finds the same rows.
    since = ids.oldest_sent(each.record.timestamp for each in untagged)
    rows = fold.find({each.value.message_id for each in untagged}, since)
    fold.wait([each for each in untagged if each.value.message_id not in rows])
    return rules.with_rows(kept, rows)


def apart(
    refold: Refold, kept: Sequence[Keep[ReportRecord]]
) -> list[tuple[list[Keep[ReportRecord]], set[UUID]]]:
    """Return the records that are folded again and those that are new.

    Each part comes with the ids whose rows must not make its moves.
    """
    again, new = rules.split_by_offset(kept, refold.below)
    stayed = refold.stayed({id for record in again for id in rules.ids_of(record.value)})
    return [(again, stayed), (new, set())]


def fold_reports(
    fold: Fold, records: Sequence[ReportRecord], without: Collection[UUID] = ()
) -> Sequence[None]:
    """Fold the reports into Postgres, but not those on some rows; no records follow from them.

    A record of a call is never refused, because without it its row would be sent again. It is
    folded without its texts. If it is refused even so, Postgres is at fault, and it waits.
    """
    try:
        fold_all(fold, records, without)
    except Refused as refusal:
        if len(records) > 1 or isinstance(records[0], Receipt):
            raise
        try:
            fold_all(fold, [blame.plain(records[0])], without)
        except Refused:
            raise Unfit(f"{refusal}: refused without its texts as well") from None
        fields = {"reason": str(refusal), "runbook": Runbook.REPORT_CUT}
        log.error("report stored without its texts", extra=fields)
    return ()


def fold_all(fold: Fold, records: Sequence[ReportRecord], without: Collection[UUID]) -> None:
    """Fold the reports into Postgres, all or none; raises Refused."""
    rounds = rules.in_rounds(records, without)
    fold.settle(rounds, rules.calls_opened(records), rules.calls_closed(records))
    if rules.receipts_put_off(records):
        fold.restart_grace()


def try_ordinary(fold: Fold, notification: Notification) -> None:
    """Raise Refused if Postgres would refuse an ordinary notification too."""
    with fold.trial():
        fold.save([blame.ordinary(notification)])


def try_plain(fold: Fold, record: ReportRecord) -> None:
    """Raise Refused if Postgres would refuse an ordinary report of that kind too."""
    with fold.trial():
        fold_all(fold, [blame.plain(record, blame.ORDINARY)], fold.locked)
