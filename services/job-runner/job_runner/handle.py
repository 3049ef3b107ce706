"""What job-runner does with an upload: nothing yet, and it is not lost, but put aside."""

from typing import NoReturn

from courant.consume import Stage, Steps
from courant.records import Batch, Dead, Record
from courant.topics import JOBS, group


def stages() -> list[Stage[NoReturn]]:
    """Give all that job-runner consumes."""
    return [Stage(group("job-runner", JOBS), (JOBS.name,), refuse, keep_none)]


def refuse(record: Record) -> Dead:
    """Put every record aside: ingest accepts no uploads, so nobody was told 201 for it."""
    return Dead(record, "jobs: bulk is not served yet")


def keep_none(_: Batch[NoReturn]) -> Steps:
    """Do nothing: the loop has put aside what there was."""
    yield []
