"""Every metric, declared once: base units, few label values, never an id or a recipient."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from courant import version

FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)

# ruff: noqa: E501  (a table: one metric a line, with the help that says where to look next)
# fmt: off
BUILD = Gauge("courant_build_info", "Always 1; the labels name what this process runs. Two commits at once: a deployment is under way, or stopped half-way.", ["version", "commit"])
RECORDS = Counter("courant_records", "Records taken from a topic, dead ones included. If it stands still: courant_backlog_seconds, then the service's log.", ["topic"])
DEAD_LETTERS = Counter("courant_dead_letters", "Records of a topic put aside. Look at them with `courant dead list`.", ["topic"])
UNAVAILABLE = Counter("courant_weather", "Batches put off because Kafka or Postgres could not take them. The reason is in the log line `bad weather`.", ["group"])
FOLD_SECONDS = Histogram("courant_fold_seconds", "Time for one batch to be durable in Postgres. If it grows: locks and checkpoints of Postgres.", buckets=FAST)
MOVES = Counter("courant_moves", "Moves asked of rows, by move. What came too late is an event with made = false.", ["move"])
STAGE_SECONDS = Histogram("courant_stage_seconds", "Time since acceptance at which a stage was reached. Compare the stages to find the slow one.", ["stage", "lane"], buckets=SLOW)
REQUESTS = Counter("courant_requests", "Answers given over HTTP. 503: Kafka does not acknowledge, or too many are in flight.", ["route", "status"])
REQUEST_SECONDS = Histogram("courant_request_seconds", "Time to answer over HTTP. If it grows: the broker's acknowledgements.", ["route"], buckets=FAST)
LANES_DOWN = Counter("courant_lanes_down", "Notifications that went one lane down from this one: their service sends more than INGEST_FAIR_SHARE, and others send too.", ["channel", "lane"])
IN_FLIGHT = Gauge("courant_requests_in_flight", "Requests being answered; at INGEST_IN_FLIGHT_MAX further ones get 503.")
LOOP_SILENT = Gauge("courant_loop_silent_seconds", "Time since ingest's event loop last ran. Above a second it is stuck, and no client is answered: the alert `CourantStuck`.")
OUTCOMES = Counter("courant_outcomes", "What providers made of attempts. `unknown` is resolved by recovery.", ["provider", "outcome"])
PROVIDER_SECONDS = Histogram("courant_provider_seconds", "Time a provider took for one call.", ["provider"], buckets=FAST)
IN_CALLS = Gauge("courant_in_calls", "Notifications inside provider calls now.", ["provider"])
BREAKER_OPEN = Gauge("courant_breaker_open", "1 while a provider's channel is paused; the reason is in the log line `provider paused`.", ["provider"])
MARK_AGE = Gauge("courant_mark_passed_age_seconds", "Age of the newest moment before which a group has handled everything in a topic. This is the backlog in seconds.", ["group", "topic"])
SWEPT = Counter("courant_sweep_reissued", "Rows a sweep gave their next step. Many: something upstream loses or stops.", ["sweep"])
HOLD = Gauge("courant_hold_stands", "1 while sending is held because Postgres may lack what was folded; lifts by itself within a lease.")
LEADS = Gauge("courant_recovery_leads", "1 in the process that runs the sweeps. No 1 anywhere: recovery is down.")
GONE = Counter("courant_log_gone", "Records that had left the log before Postgres could fold them. Restore from a younger backup.", ["topic"])
CHUNKS_OUT = Gauge("courant_chunks_out", "Chunks of jobs that were ordered and whose rows still wait. Only of jobs that are not stopped.", ["channel"])
BULK_LAG = Gauge("courant_bulk_lag_seconds", "Age of the oldest such order. At JOB_RUNNER_LAG_SECONDS jobs wait: look at the deliverer and at the provider's rate.", ["channel"])
JOBS_BROKEN = Gauge("courant_jobs_broken", "Jobs that lack chunks or rows that should have come. These are dead letters: `courant dead list`.")
# fmt: on

BUILD.labels(version.VERSION, version.BUILD.commit).set(1)


def count(counter: Counter, names: Iterable[str]) -> None:
    """Add one for each name."""
    for name, times in Tally(names).items():
        counter.labels(name).inc(times)
