"""The runbook pages that error log lines name: `log.error(..., extra={"runbook": Runbook.X})`.

Each value is the path of a page in the repository, with the heading to read. A test checks that
both exist.
"""

from enum import StrEnum


class Runbook(StrEnum):
    """The page that tells a person what to do after an error log line."""

    REQUEST_FAILED = "docs/runbooks/log-lines.md#request-failed"
    SAFELIST_UNREADABLE = "docs/runbooks/log-lines.md#safelist-cannot-be-read"
    RENDERING_FAILED = "docs/runbooks/log-lines.md#message-cannot-be-rendered"
    JOB_LACKS_ROWS = "docs/runbooks/log-lines.md#job-lacks-rows"
    CHUNK_UNREADABLE = "docs/runbooks/log-lines.md#chunk-cannot-be-opened"
    DIRECTORY_UNREADABLE = "docs/runbooks/log-lines.md#directory-record-cannot-be-read"
    PRODUCER_FAILED = "docs/runbooks/log-lines.md#producer-cannot-go-on"
    THREAD_DIED = "docs/runbooks/log-lines.md#thread-died-the-process-ends"
    THREAD_STUCK = "docs/runbooks/log-lines.md#thread-did-not-stop-in-time"
    LOG_GONE = "docs/runbooks/alerts.md#courantloggone"
    DATABASE_UNFIT = "docs/runbooks/database.md#the-database-does-not-fit-records-wait"
    ROWS_LOCKED = "docs/runbooks/database.md#another-session-keeps-rows-locked"
    KEY_MISSING = "docs/runbooks/keys.md#an-encryption-key-is-missing"
    REPORT_CUT = "docs/runbooks/database.md#report-stored-without-its-texts"
    RECOVERY_ROUND_FAILED = "docs/runbooks/recovery.md#a-round-failed-the-process-ends"
    LOG_SHORTENED = "docs/runbooks/alerts.md#courantlogshortened"
    RECOVERY_TASK_REFUSED = "docs/runbooks/recovery.md#postgres-refuses-a-task"
    PROVIDER_PAUSED = "docs/runbooks/provider-paused.md#provider-paused"
    SENDER_PAUSED = "docs/runbooks/provider-paused.md#one-sender-is-paused"
    CALLS_ABANDONED = "docs/runbooks/provider-paused.md#calls-are-abandoned"
    RECOVERY_AUDIT_MISSING = (
        "docs/runbooks/recovery.md#accepted-notifications-are-missing-in-postgres"
    )
    RECOVERY_AUDIT_FAILED = "docs/runbooks/recovery.md#the-audit-failed-it-begins-again"
