"""The audit's decisions: which records must be in Postgres, and from when to restore."""

from datetime import timedelta
from uuid import UUID

import pytest

from courant import ids
from courant.contracts import Command, JobCommand
from courant.testing.builders import DELIVERY, INBOX, NOW, id_of, partition
from courant.topics import JOBS, RECEIPTS
from recovery.audit import accepted as rules
from recovery.audit.accepted import Accepted
from support.job_runner import upload

DAY = ids.day_at(NOW)
INBOX_0, JOBS_0 = partition(INBOX), partition(JOBS.name)
UPLOAD = upload(3)


def at(offset: int, seconds: float = 0, topic: str = INBOX) -> Accepted:
    return Accepted(partition(topic), offset, id_of(offset), NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("topic", "key", "value", "expected"),
    [
        (INBOX, id_of(1).bytes, b"", id_of(1)),
        (INBOX, b"no id", b"", None),
        (INBOX, ids.first_of(DAY - 1).bytes, b"", None),  # its day may have been dropped
        (JOBS.name, UPLOAD.seal.upload_id.bytes, UPLOAD.seal.encode(), UPLOAD.job_id),
        (JOBS.name, UPLOAD.seal.upload_id.bytes, UPLOAD.chunks[0].encode(), None),
        (
            JOBS.name,
            b"",
            JobCommand(job_id=UPLOAD.job_id, command=Command.PAUSED, at=NOW).encode(),
            None,
        ),
        (JOBS.name, b"", b"?", None),
    ],
    ids=["inbox", "no-id", "too-old", "seal", "chunk", "command", "malformed"],
)
def test_a_record_accepts_a_notification_a_job_or_nothing(
    topic: str, key: bytes, value: bytes, expected: UUID | None
) -> None:
    found = rules.accepted(partition(topic), 0, key, value, NOW, oldest_day=DAY)
    assert (found.id if found else None) == expected


def test_a_record_counts_once_postgres_and_the_commit_have_passed_it() -> None:
    assert rules.folded({INBOX_0: 3}, {INBOX_0: 5}) == {INBOX_0: 3}
    assert rules.folded({INBOX_0: 5}, {INBOX_0: 3}) == {INBOX_0: 3}
    assert rules.folded({}, {INBOX_0: 3}) == {INBOX_0: 0}


def test_every_topic_that_is_accepted_is_folded_by_a_group() -> None:
    assert rules.GROUPS[INBOX] == "saver.inbox.normal"
    assert rules.GROUPS[JOBS.name] == "job-runner.jobs"
    assert len(rules.GROUPS) == 7
    assert not {DELIVERY, RECEIPTS.name} & {*rules.GROUPS}


def test_a_restore_begins_before_the_first_that_is_missing() -> None:
    assert rules.since_text([at(2, 9), at(1, 7.9)]) == "2030-01-01T12:00:07Z"
    # The chunks of an upload are in the log before its seal.
    assert rules.since_text([at(1, topic=JOBS.name), at(2)]) == "2030-01-01T11:00:00Z"


def test_young_and_unsent_records_are_looked_for_again() -> None:
    young, old, waiting = at(1, 5), at(2, -5), at(3, -5)
    assert rules.kept([young, old, waiting], {waiting.id}, NOW) == [young, waiting]


def test_the_next_process_begins_before_what_is_missing() -> None:
    assert rules.held_back({INBOX_0: 9, JOBS_0: 9}, [at(4), at(7)]) == {INBOX_0: 4, JOBS_0: 9}


def test_a_dead_letter_names_its_record() -> None:
    assert at(7).origin == f"{INBOX}/0/7"
