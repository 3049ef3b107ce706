"""What ingest shows of a notification or a job whose key it lacks."""

from dataclasses import replace
from uuid import UUID

import msgspec
import pytest

from courant.contracts import ENCODE, Content
from courant.crypto import KeyRing
from courant.directory.entries import Directory
from courant.testing.builders import NOW, id_of
from ingest.accept.content import TemplateCache
from ingest.jobs import report
from ingest.jobs.store import StoredRow
from ingest.jobs.views import JobView
from ingest.read.views import NotificationRow, View
from support.ingest.jobs import stored_job
from support.job_runner import upload

FIRST, OTHER = KeyRing({"1": b"k" * 32}), {"2": b"o" * 32}
SEALED = FIRST.encrypt(ENCODE(Content(to="ana@example.ca")), id_of(1).bytes)
ROW = NotificationRow(
    id_of(1), UUID(int=9), 1, "email", "mine", SEALED, NOW, None, "delivered", NOW, NOW, None, None
)


def test_a_notification_whose_key_is_missing_is_shown_without_its_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = Directory()
    for ring, to in ((FIRST, "ana@example.ca"), (KeyRing(OTHER), None)):
        view = View(directory, TemplateCache(directory), ring)
        shown = view.notification(ROW, "")
        assert (shown["email_address"], shown["body"], shown["reference"]) == (to, None, "mine")
    assert [line.getMessage() for line in caplog.records] == ["an encryption key is missing"]


def test_a_job_whose_key_is_missing_is_shown_without_its_files_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seal = upload(3).seal
    seal = msgspec.structs.replace(seal, name=FIRST.encrypt(b"a.csv", seal.job_id.bytes))
    job = stored_job(seal)
    assert JobView(Directory(), FIRST).name(job) == "a.csv"
    ring = KeyRing(OTHER)
    assert JobView(Directory(), ring).name(job) is None
    row = StoredRow(1, id_of(1), SEALED, "mine", ROW.state, NOW, NOW, None, None)  # type: ignore[arg-type]
    assert report.stored_cells(job, FIRST, row)[1] == "ana@example.ca"
    assert report.stored_cells(job, ring, row)[1] == ""
    assert len(caplog.records) == 1
    # Emptied content is nobody's fault.
    emptied = KeyRing(OTHER)
    assert report.stored_cells(replace(job, name=b""), emptied, replace(row, sealed=b""))[1] == ""
    assert JobView(Directory(), emptied).name(replace(job, name=b"")) is None
    assert len(caplog.records) == 1
