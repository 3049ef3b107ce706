"""The runbook pages that error log lines name: `log.error(..., extra={"runbook": Runbook.X})`.

Each value is the path of a page in the repository, with the heading to read. A test checks that
both exist.
"""

from enum import StrEnum


class Runbook(StrEnum):
    """The page that tells a person what to do after an error log line."""

    RECOVERY_ROUND_FAILED = "docs/runbooks/recovery.md#a-round-failed-the-process-ends"
    RECOVERY_TASK_REFUSED = "docs/runbooks/recovery.md#postgres-refuses-a-task"
