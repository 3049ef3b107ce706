"""Upkeep: deletes old rows of every table that grows, and creates and drops partitions of days.

It touches no notification: `content` empties those. The SQL of each task stands here, beside its
function. The saver creates a missing day by itself; days are created ahead here so that none of its
batches waits.
"""

import logging
import re
from datetime import timedelta
from itertools import product

from courant import ids, metrics
from courant.idempotency import KEPT
from courant.lifecycle import State
from courant.postgres.days import DAILY, DROP_DAY, MAKE_DAY
from courant.topics import DELIVERY, INBOX, JOBS, RECEIPTS
from recovery import content, rules
from recovery.rows import WaitingReceipt
from recovery.store import PostgresStore
from recovery.sweeps import Tools, publish

# ruff: noqa: S608  (all SQL that is put together here is ours)

log = logging.getLogger(__name__)

KEY_KEPT = KEPT + timedelta(days=1)
"""Records decide when a key's time is over. It must not be forgotten before: ingests' clocks differ
from Postgres's, and a file's seal is written long after the file began."""
ALIAS_KEPT = timedelta(days=28)
"""Longer than the log can bring a record back.

If an alias were forgotten earlier, its record would become a notification. A job that was forgotten
earlier would begin again.
"""
CHUNK_KEPT = timedelta(days=7)
UNSEALED_KEPT = JOBS.retention

# The rows to delete are named by where they lie (ctid), because for a list of keys the planner may
# read the whole table.
# A row of `calls` says that a notification may have been sent. If that is not claimed at the same
# attempt any more, the row says nothing, because attempts are never used twice.
CLOSE = f"""
    DELETE FROM calls WHERE ctid = ANY(ARRAY(
        SELECT c.ctid FROM calls c
        WHERE c.at < %(delivery)s AND NOT EXISTS (SELECT FROM notifications n
            WHERE n.id = c.notification AND n.attempt = c.attempt AND n.state = '{State.CLAIMED}')
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED))"""
OLD = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT o.ctid FROM {table} o WHERE o.{at} < {now} - %(age)s {which}
        ORDER BY o.{at} LIMIT %(limit)s FOR UPDATE OF o SKIP LOCKED))"""
FORGET_KEYS = OLD.format(table="idempotency", at="accepted_at", now="%(passed)s", which="")
FORGET_ALIASES = OLD.format(table="aliases", at="at", now="now()", which="")
# Once a job is over, its rows hold everything that is still needed. An upload without a job waits
# for its seal as long as the log may hold one, and longer while job-runner does not read the log.
# Otherwise a job-runner that was away would find the seal after its chunks were forgotten. A chunk
# is stored before its job is over, so that none is looked at before it is old itself.
FORGET_CHUNKS = """
    DELETE FROM chunks WHERE ctid = ANY(ARRAY(
        SELECT c.ctid FROM chunks c LEFT JOIN jobs j USING (upload_id)
        WHERE c.at < now() - %(age)s
            AND CASE WHEN j.id IS NULL THEN c.at < %(passed)s - %(unsealed)s
                ELSE j.finished_at < now() - %(age)s END
        ORDER BY c.at LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED))"""
FORGET_JOBS = OLD.format(table="jobs", at="at", now="now()", which="AND o.finished_at IS NOT NULL")
FORGET_WISHES = OLD.format(
    table="wishes",
    at="at",
    now="now()",
    which="AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = o.job_id)",
)
# Keeps the first mark of each period of `space`.
THIN = """
    DELETE FROM marks WHERE ctid = ANY(ARRAY(
        SELECT place FROM (
            SELECT m.ctid AS place, row_number() OVER (
                PARTITION BY m.topic_id, date_bin(%(space)s, m.at, timestamptz '2020-01-01 00:00Z')
                ORDER BY m.at) AS nth
            FROM marks m
            WHERE m.at < now() - %(age)s AND m.at >= date_bin(
                    %(space)s, now() - %(until)s, timestamptz '2020-01-01 00:00Z')
                AND (m.family = %(receipts)s) = %(of_receipts)s) AS m
        WHERE nth > 1 LIMIT %(limit)s))"""
FORGET_MARKS = "DELETE FROM marks WHERE at < now() - %(age)s"
THINNED_WITHIN = timedelta(minutes=1)
"""How long a mark is looked at every few seconds once it has an age at which fewer are kept.

Then it is thinned, or no process led meanwhile, and the task of every hour finds it.
"""


WAIT_MAX = timedelta(days=7)
"""How long a receipt without our tags waits for the row that it reports on."""
FIRST_WAIT = timedelta(seconds=5)
DUE_RECEIPTS = """
    SELECT sns_id, message_id, value, partition, "offset", at, at < now() - %(age)s
    FROM receipts_waiting WHERE try_at <= now() ORDER BY try_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED"""
FIND_ROWS = """
    SELECT message_id, id, attempt FROM notifications
    WHERE message_id = ANY(%(message_ids)s) AND id >= %(since)s ORDER BY id"""
# Tried at twice its age each time, so that strangers' receipts cost few tries, and once at the end.
TRY_LATER = """
    UPDATE receipts_waiting
    SET try_at = least(now() + greatest(now() - at, %(first)s),
        greatest(at + %(age)s, now() + %(first)s))
    WHERE sns_id = ANY(%(sns_ids)s)"""
FORGET_RECEIPTS = "DELETE FROM receipts_waiting WHERE sns_id = ANY(%(sns_ids)s)"


def match_receipts(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Write receipts that waited for a row's message id again, as the receipts of that row.

    One that has waited for too long becomes a dead letter. The records come first: after a crash
    in between they are written twice, and a receipt counts once. Returns how many wait no longer.
    """
    with store.sweeping() as rows:
        fetched = rows.fetch(DUE_RECEIPTS, age=WAIT_MAX, limit=limit)
        due = [WaitingReceipt(s, m, bytes(value), *rest) for s, m, value, *rest in fetched]
        if not due:
            return 0
        found = {
            message_id: (id, attempt)
            for message_id, id, attempt in rows.fetch(
                FIND_ROWS,
                message_ids=[each.message_id for each in due],
                since=ids.oldest_sent(each.at for each in due),
            )
        }
        matched = [each for each in due if each.message_id in found]
        unmatched = [each for each in due if each.message_id not in found]
        given_up = [each for each in unmatched if each.is_old]
        receipts = [rules.matched(each, *found[each.message_id]) for each in matched]
        publish(tools.producer, [*receipts, *map(rules.given_up, given_up)])
        metrics.DEAD_LETTERS.labels(RECEIPTS.name).inc(len(given_up))
        over = [each.sns_id for each in (*matched, *given_up)]
        rows.run(FORGET_RECEIPTS, sns_ids=over)
        waiting = [each.sns_id for each in unmatched if not each.is_old]
        rows.run(TRY_LATER, sns_ids=waiting, first=FIRST_WAIT, age=WAIT_MAX)
    return len(over)


def close_orphans(store: PostgresStore, _: object, limit: int) -> int:
    """Delete entries of calls whose row is not claimed at the entry's attempt any more."""
    with store.sweeping() as rows:
        delivery = rows.passed((DELIVERY.name,)).get(DELIVERY.name)
        return rows.run(CLOSE, delivery=delivery, limit=limit) if delivery else 0


def forget_keys(store: PostgresStore, _: object, limit: int) -> int:
    """Forget what an old Idempotency-Key stands for.

    Its age is that of its record, up to where the log is folded. By the clock, a saver that was
    away for two days would meet repetitions whose first requests are forgotten.
    """
    with store.sweeping() as rows:
        topics = (*INBOX.names(), JOBS.name)
        times = rows.passed(topics)
        if len(times) < len(topics):
            return 0
        return rows.run(FORGET_KEYS, passed=min(times.values()), age=KEY_KEPT, limit=limit)


def forget_aliases(store: PostgresStore, _: object, limit: int) -> int:
    """Forget ids that were not used, because another request with their key came first."""
    with store.sweeping() as rows:
        return rows.run(FORGET_ALIASES, age=ALIAS_KEPT, limit=limit)


def forget_chunks(store: PostgresStore, _: object, limit: int) -> int:
    """Forget chunks of jobs that are over, and of uploads that never became a job."""
    with store.sweeping() as rows:
        passed = rows.passed((JOBS.name,)).get(JOBS.name)
        ages = {"age": CHUNK_KEPT, "unsealed": UNSEALED_KEPT}
        return rows.run(FORGET_CHUNKS, passed=passed, limit=limit, **ages) if passed else 0


def forget_jobs(store: PostgresStore, _: object, limit: int) -> int:
    """Forget jobs that are over, and the commands to jobs that are forgotten."""
    with store.sweeping() as rows:
        forgotten = rows.run(FORGET_JOBS, age=ALIAS_KEPT, limit=limit)
        return forgotten + rows.run(FORGET_WISHES, age=ALIAS_KEPT, limit=limit)


def thin_marks(store: PostgresStore, _: object, limit: int) -> int:
    """Keep fewer of the marks that have just become so old that fewer are kept."""
    return _thin(store, limit, THINNED_WITHIN)


def thin_all_marks(store: PostgresStore, _: object, limit: int) -> int:
    """Keep fewer marks the older they are, and none that is older than the topics' retention."""
    return _thin(store, limit, rules.MARKS_KEPT)


def _thin(store: PostgresStore, limit: int, within: timedelta) -> int:
    with store.sweeping() as rows:
        thinned = rows.run(FORGET_MARKS, age=rules.MARKS_KEPT)
        for bands, of_receipts in ((rules.THINNED, False), (rules.THINNED_RECEIPTS, True)):
            for age, until, space in bands:
                thinned += rows.run(
                    THIN,
                    age=age,
                    until=min(until, age + max(within, space)),
                    space=space,
                    receipts=RECEIPTS.name,
                    of_receipts=of_receipts,
                    limit=limit,
                )
        return thinned


AHEAD = (1, 2)


STUBS_KEPT = timedelta(days=14)
"""How long a row is kept after its content, so that rereading the log cannot bring it back."""


NOW = "SELECT now()"


# It also finds partitions that a process detached before it died.
ALL_DAYS = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relname ~ %(names)s AND pg_table_is_visible(oid)"""


DAY = re.compile(f"({'|'.join(DAILY)})_([0-9]+)")


def make_days(store: PostgresStore, _: object, __: int) -> int:
    """Make tomorrow and the day after; return the number of partitions made."""
    partitions = 0
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        for table, ahead in product(DAILY, AHEAD):
            [(missing,)] = rows.fetch(MAKE_DAY, daily=table, day=ids.day_at(now) + ahead)
            partitions += missing
    return partitions


def drop_days(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Drop days past every service's retention and STUBS_KEPT; return the number of partitions.

    Each has a transaction of its own, so that its lock is not held while the next is dropped.
    """
    if not tools.directory.is_read:
        return 0
    kept = content.longest_retention(tools.directory)
    with store.sweeping() as rows:
        [(now,)] = rows.fetch(NOW)
        partitions = [day_in(name) for (name,) in rows.fetch(ALL_DAYS, names=f"^{DAY.pattern}$")]
    oldest = ids.day_at(now - kept - STUBS_KEPT)
    past = [(table, day) for table, day in partitions if day < oldest][:limit]
    for table, day in past:
        with store.sweeping() as rows:
            rows.fetch(DROP_DAY, daily=table, day=day)
        log.info("day dropped", extra={"partition": f"{table}_{day}"})
    return len(past)


def day_in(name: str) -> tuple[str, int]:
    """Return the table and the day of a partition, from its name."""
    match = DAY.fullmatch(name)
    assert match
    return match[1], int(match[2])
