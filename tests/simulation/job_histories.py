"""What clients do with jobs in the simulation: files of all kinds, and commands."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from hypothesis import strategies as st

from courant import bulk
from courant.contracts import Chunk, Command, JobCommand, JobRow, KeyType, Seal
from courant.crypto import KeyRing
from courant.records import Outgoing
from courant.testing.builders import NOW, id_of, number_of
from courant.testing.kafka import PARTITIONS
from courant.testing.world import REPLACED, TICK, Fault
from courant.topics import JOBS, Channel
from support.job_runner import RING, written

OTHER_RING = KeyRing({"1": b"o" * 32})
MIDNIGHT = {"repeated after midnight", "repeated before it is read"}
KEYED = {"repeated", "repeated with another body", *MIDNIGHT}
KINDS = ["plain", "plain", "sealed twice", "unsealed", "torn", *sorted(KEYED)]
"""The seal of a `torn` upload has the digest of other chunks. A `repeated` file is uploaded twice
with the same Idempotency-Key."""


class UploadedFile(NamedTuple):
    """A file, how many rows it and each chunk have, and the tick in which it is uploaded."""

    kind: str
    rows: int
    each: int
    tick: int
    scheduled: int | None  # the tick


class SentCommand(NamedTuple):
    """A command to the job of an upload, written by an ingest whose clock is `skew` ticks off."""

    upload: int
    command: Command
    tick: int
    skew: int


class JobHistory(NamedTuple):
    """The records that clients and others wrote, and the faults meanwhile."""

    uploads: list[UploadedFile]
    commands: list[SentCommand]
    hopeless: list[Outgoing]
    faults: list[tuple[int, Fault]]  # how many points to pass before it strikes
    late: list[int]  # how many ticks a message's receipts take
    keyless: int  # until this tick job-runner cannot decrypt the chunks that it stored
    unread: tuple[int, int]  # from which tick on, and for how many, nothing reads `jobs`


# A rollback of Postgres often comes with another fault, so that other processes notice it while one
# is between two steps.
BURSTS = [
    # What the log loses of a job before it is stored is lost, and the promises do not know that.
    *((fault,) for fault in Fault if fault not in REPLACED),
    (Fault.ROLLBACK, Fault.REBALANCE),
    (Fault.ROLLBACK, Fault.FREEZE),
]
UPLOADS = st.builds(
    UploadedFile,
    st.sampled_from(KINDS),
    st.integers(0, 6),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from([None, None, None, 4]),
)
COMMANDS = st.builds(
    SentCommand,
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([Command.CANCELLED, Command.PAUSED, Command.RESUMED]),
    st.integers(0, 9),
    st.integers(-3, 3),
)


AFTER_MIDNIGHT, OTHER_BODY = 100, 200
"""Added to an upload's number, for the job of its repetition and for that of another body."""


def job_id(upload: int) -> UUID:
    return id_of(upload)


def first_job(id: UUID) -> UUID:
    """Return a job's id, or that of the job that it repeats."""
    number = number_of(id)
    return id_of(number - AFTER_MIDNIGHT) if AFTER_MIDNIGHT <= number < OTHER_BODY else id


def upload_id(upload: int, again: bool = False, elsewhere: bool = False) -> UUID:
    """Return an id that is in the same partition for both uploads with one key, or `elsewhere`.

    In the same partition the first upload is read first, and is the one that counts.
    """
    return next(
        id
        for number in range(1_000)
        for id in [UUID(int=(2 * upload + again + 1) << 64 | number)]
        if crc32(id.bytes) % PARTITIONS == (upload + elsewhere) % PARTITIONS
    )


def recipient(upload: int, row: int) -> str:
    return f"upload-{upload}-row-{row}@example.com"


def packed(id: UUID, upload: int, rows: int, each: int) -> list[Chunk]:
    """Return the chunks of a file."""
    chunks = []
    for number, first in enumerate(range(1, rows + 1, each)):
        numbers = range(first, min(first + each, rows + 1))
        made = [JobRow(to=recipient(upload, row), recipient_hash=b"h") for row in numbers]
        chunks.append(bulk.pack(RING, id, number, first, made))
    return chunks


def records(number: int, upload: UploadedFile) -> Iterator[Chunk | Seal]:
    """Return all records of an upload in their order, and of the second one with its key."""
    after_midnight = upload.kind in MIDNIGHT
    order = [False, True] if upload.kind in KEYED else [False]
    # An ingest that is slow writes the first upload last, into another partition.
    for again in reversed(order) if upload.kind == "repeated before it is read" else order:
        id = upload_id(number, again, elsewhere=again and after_midnight)
        other_body = again and upload.kind == "repeated with another body"
        made = packed(id, number + 10 * other_body, upload.rows, upload.each)
        yield from made
        # Chunks that are packed again are encrypted again, so that the digest differs.
        sealed = packed(id, number, upload.rows, upload.each) if upload.kind == "torn" else made
        seal = Seal(
            job_id=job_id(
                number + AFTER_MIDNIGHT * (again and after_midnight) + OTHER_BODY * other_body
            ),
            upload_id=id,
            chunks=len(made),
            rows=upload.rows,
            digest=bulk.digest(bulk.fingerprint(each.sealed) for each in sealed),
            service_id=UUID(int=7 + number % 2),
            key_id=UUID(int=8),
            key_type=KeyType.NORMAL,
            template_id=UUID(int=9),
            template_version=3,
            channel=Channel.EMAIL,
            name=b"sealed",
            accepted_at=NOW + upload.tick * TICK + timedelta(seconds=again),
            scheduled_for=None if upload.scheduled is None else NOW + upload.scheduled * TICK,
            idempotency_key=b"key %d" % number if upload.kind in KEYED else None,
            body_hash=b"other" if other_body else b"body",
        )
        if upload.kind != "unsealed":
            yield seal
        if upload.kind == "sealed twice":
            yield seal


def hopeless() -> list[Outgoing]:
    """Return records that can only become dead letters."""
    id = UUID(int=999)
    [chunk] = packed(id, 9, 2, 2)
    row = JobRow(to="", recipient_hash=b"h")
    return [
        Outgoing(JOBS.name, id.bytes, b"{}"),
        written(bulk.pack(OTHER_RING, id, 1, 1, [row])),
        written(Chunk(upload_id=id, number=0, first=1, rows=3, sealed=chunk.sealed)),
    ]


def coming(history: JobHistory) -> list[tuple[int, Outgoing]]:
    """Return what ingest writes for clients, each with its tick; a file may take several."""
    written_at = [(0, each) for each in history.hopeless]
    for number, upload in enumerate(history.uploads):
        of_upload = [written(each) for each in records(number, upload)]
        written_at += [(upload.tick + nth // 3, each) for nth, each in enumerate(of_upload)]
    for sent in history.commands:
        at = NOW + (sent.tick + sent.skew) * TICK
        command = JobCommand(job_id=job_id(sent.upload), command=sent.command, at=at)
        written_at.append((sent.tick, written(command)))
    return sorted(written_at, key=lambda each: each[0])


ANY = st.builds(
    JobHistory,
    st.lists(UPLOADS, min_size=1, max_size=3),
    st.lists(COMMANDS, max_size=3),
    st.lists(st.sampled_from(hopeless()), max_size=2),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(BURSTS)), max_size=5).map(
        lambda drawn: [
            (0 if later else points, fault)
            for points, burst in drawn
            for later, fault in enumerate(burst)
        ]
    ),
    st.lists(st.integers(0, 5), max_size=2),
    st.sampled_from([0, 0, 3, 6]),
    st.tuples(st.integers(1, 8), st.sampled_from([0, 0, 9])),
)


def stopped(
    rows: int, command: Command, tick: int, points: int, resumed: list[SentCommand], keyless: int
) -> JobHistory:
    """Stop a job half-way, and let Postgres lose the command while nothing reads `jobs`."""
    upload, stop = UploadedFile("plain", rows, 1, 0, None), SentCommand(0, command, tick, 0)
    faults = [(points, Fault.ROLLBACK)]
    return JobHistory([upload], [stop, *resumed], [], faults, [], keyless, (tick + 2, 9))


RESUMED = st.builds(
    SentCommand, st.just(0), st.just(Command.RESUMED), st.just(5), st.integers(-3, 0)
)
HISTORIES = st.one_of(
    ANY,
    ANY,
    st.builds(
        stopped,
        st.integers(4, 8),
        st.sampled_from([Command.CANCELLED, Command.PAUSED]),
        st.integers(2, 4),
        st.integers(100, 300),
        st.lists(RESUMED, max_size=1),
        st.sampled_from([0, 6]),
    ),
)
