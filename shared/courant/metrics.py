"""Declares every metric once: base units, few label values, never an id or a recipient."""

import collections
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from courant import version

FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)

# ruff: noqa: E501  (a table: one metric a line, with a help text that names where to look next)
# fmt: off
BUILD = Gauge("courant_build_info", "Always 1; the labels name what this process runs. Two commits at once: a deployment is under way, or stopped half-way.", ["version", "commit"])
RECORDS = Counter("courant_records", "Records handled from a topic, dead letters included. If it does not grow: courant_mark_passed_age_seconds, then the service's log.", ["topic"])
DEAD_LETTERS = Counter("courant_dead_letters", "Records of a topic that became dead letters. List them with `courant dead list`.", ["topic"])
UNAVAILABLE = Counter("courant_weather", "Batches to be retried because Kafka or Postgres was unavailable. The reason is in the log line `dependency unavailable, retrying`.", ["group"])
FOLD_SECONDS = Histogram("courant_fold_seconds", "Time until one batch is durable in Postgres. If it grows: locks and checkpoints of Postgres.", buckets=FAST)
MOVES = Counter("courant_moves", "Moves that reports requested, by move. A report that came too late is an event with made = false.", ["move"])
STAGE_SECONDS = Histogram("courant_stage_seconds", "Time from acceptance until a stage was reached. Compare the stages to find the slow one.", ["stage", "lane"], buckets=SLOW)
REQUESTS = Counter("courant_requests", "HTTP answers. 503: Kafka does not acknowledge, or too many requests are in flight.", ["route", "status"])
REQUEST_SECONDS = Histogram("courant_request_seconds", "Time to answer an HTTP request. If it grows: the broker's acknowledgements.", ["route"], buckets=FAST)
RECEIPTS = Counter("courant_receipts", "Genuine posts of SNS. `untagged`: no tags of ours, found by the provider's message id. `unread`: kept as a dead letter, because nothing can use it yet (a text to our number).", ["kind"])
LANES_DOWN = Counter("courant_lanes_down", "Notifications moved one lane down from this lane, because their service sends more than INGEST_FAIR_SHARE while others send too.", ["channel", "lane"])
IN_FLIGHT = Gauge("courant_requests_in_flight", "Requests being answered. At INGEST_IN_FLIGHT_MAX further ones get 503.")
BODY_BYTES = Gauge("courant_body_bytes_in_flight", "Bytes of requests' bodies in ingest's memory. Near INGEST_BODIES_BYTES_MAX, further bodies get 503, large ones first.")
LOOP_SILENT = Gauge("courant_loop_silent_seconds", "Time since ingest's event loop last ran. Above a second it is stuck and answers no client: see the alert `CourantStuck`.")
OUTCOMES = Counter("courant_outcomes", "Outcomes of attempts at providers. Recovery resolves `unknown`.", ["provider", "outcome"])
PROVIDER_SECONDS = Histogram("courant_provider_seconds", "Time a provider took for one call.", ["provider"], buckets=FAST)
IN_CALLS = Gauge("courant_in_calls", "Notifications inside provider calls now.", ["provider"])
BREAKER_OPEN = Gauge("courant_breaker_open", "1 while nothing gets through a provider; the reason is in the log line `provider paused` or `sender paused`.", ["provider"])
SENDERS_PAUSED = Gauge("courant_senders_paused", "Senders (From addresses, SMS origins) that a provider does not accept; their messages wait. The log line `sender paused` names the service.", ["provider"])
CALLS_ABANDONED = Counter("courant_calls_abandoned", "Provider calls that had no answer when their lease ended. Receipts resolve them; look for a proxy that holds answers back.", ["provider"])
MARK_AGE = Gauge("courant_mark_passed_age_seconds", "Age of the newest mark that a group has passed in a topic: it has handled everything before it. This is the backlog in seconds.", ["group", "topic"])
SWEPT = Counter("courant_sweep_reissued", "Rows that a sweep re-issued. Many: something upstream loses records or has stopped.", ["sweep"])
HOLD = Gauge("courant_hold_stands", "1 while sending is held because Postgres may lack records that it had already saved. The hold lifts by itself within a lease.")
LEADS = Gauge("courant_recovery_leads", "1 in the process that runs the sweeps. If no process has 1, recovery is down.")
GONE = Counter("courant_log_gone", "Records that retention deleted before Postgres had saved them. Restore from a newer backup.", ["topic"])
LOCKED_ROWS = Gauge("courant_rows_locked", "1 while reports wait for rows that a session outside of Courant keeps locked. The log line `another session keeps rows locked` names the session.")
SPARED = Counter("courant_stats_dropped", "Records for the live figures that Kafka did not take. Nothing but the figures lacks them.", ["topic"])
SHORTENED = Counter("courant_log_shortened", "Records that Postgres had folded and the log no longer has: it was restored from an older copy, or lost its end. Sending is held meanwhile.", ["topic"])
CHUNKS_OUT = Gauge("courant_chunks_out", "Chunks that were ordered and have rows that still wait, of jobs that are not paused or cancelled.", ["channel"])
BULK_LAG = Gauge("courant_bulk_lag_seconds", "Age of the oldest order of a chunk whose rows still wait. At JOB_RUNNER_LAG_SECONDS jobs wait: see the deliverer and the provider's rate.", ["channel"])
JOBS_BROKEN = Gauge("courant_jobs_broken", "Jobs that lack chunks or rows that should be stored by now. These are dead letters: `courant dead list`.")
AUDIT_CHECKED = Counter("courant_audit_checked", "Accepted records that the audit looked for in Postgres, each many times. If it does not grow: the log of recovery.")
AUDIT_MISSING = Gauge("courant_audit_missing", "Accepted ids that are neither a row nor an alias nor a dead letter. Recovery's log line `accepted notifications are missing in Postgres` has the command that brings them back.")
AUDIT_AGE = Gauge("courant_audit_age_seconds", "How long ago the audit had looked for every folded record: `new` for the first time, `all` in a walk through the whole log.", ["part"])
# fmt: on

BUILD.labels(version.VERSION, version.BUILD.commit).set(1)


def count(counter: Counter, names: Iterable[str]) -> None:
    """Add one to the counter for each name."""
    for name, times in collections.Counter(names).items():
        counter.labels(name).inc(times)
