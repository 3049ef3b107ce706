"""The promises about jobs, checked against everything durable; no rule of the product is called."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from courant.contracts import (
    ChunkOrder,
    Content,
    Decided,
    Notification,
    decode_delivery,
    decoder,
    read,
)
from courant.crypto import Undecryptable
from courant.testing.builders import DELIVERY, id_of, number_of
from courant.testing.tables import Tables
from courant.testing.world import World
from courant.topics import CHUNKS, JOBS
from simulation.job_histories import (
    AFTER_MIDNIGHT,
    MIDNIGHT,
    OTHER_BODY,
    JobHistory,
    UploadedFile,
    first_job,
    job_id,
    recipient,
    upload_id,
)
from simulation.job_world import BULK, play
from simulation.outside import life_of
from support.job_runner import RING


class Fate(NamedTuple):
    """What must become of an upload, by what its client wrote."""

    number: int
    upload: UploadedFile
    command: str  # the one that holds in the end

    @property
    def sealed(self) -> bool:
        return self.upload.kind not in {"unsealed", "torn"}

    def rows(self) -> set[tuple[UUID, int]]:
        numbers = range(1, self.upload.rows + 1) if self.sealed else range(0)
        return {(job_id(self.number), each) for each in numbers}


def fates_of(history: JobHistory) -> list[Fate]:
    fates = []
    for number, upload in enumerate(history.uploads):
        sent = sorted(
            (each for each in history.commands if each.upload == number), key=attrgetter("tick")
        )
        commands = [str(each.command) for each in sent]
        last = "cancelled" if "cancelled" in commands else (commands or ["resumed"])[-1]
        fates.append(Fate(number, upload, last))
    return fates


# The states in which a row may end, besides the one at the end of its life.
OTHER_ENDS: dict[str, set[str]] = {
    "resumed": set(),
    "paused": {"created"},
    "cancelled": {"cancelled"},
}


def broken_promises(history: JobHistory) -> set[str]:
    """Return the promises that the durable records and rows break."""
    try:
        world, provider = play(history)
    except AssertionError as error:
        return {str(error)}

    tables, log = world.store.tables, world.kafka.log
    fates = fates_of(history)
    rows = {row for fate in fates for row in fate.rows()}
    due = {row for fate in fates if fate.command == "resumed" for row in fate.rows()}
    other_ends = {job_id(fate.number): OTHER_ENDS[fate.command] for fate in fates}
    stored = Counter(
        (job_of_row(row.notification), row.notification.job_row) for row in tables.rows.values()
    )
    contracts = [
        decode_delivery(each.value)
        for part in world.kafka.partitions(DELIVERY)
        for each in log[part]
    ]
    resent_times = Counter(
        id
        for id, _ in {
            (each.id, each.attempt)
            for each in contracts
            if isinstance(each, Decided) and each.move in {"resent", "abandoned"}
        }
    )
    # A crash may repeat a dead letter; its origin, which is in the journal, stays the same.
    dead = sum(topic.endswith(".dead") for topic, _ in {*world.journal})
    conflicting = sum(fate.upload.kind == "repeated with another body" for fate in fates)
    jobs = tables.jobs.jobs
    after_midnight = {job_id(fate.number) for fate in fates if fate.upload.kind in MIDNIGHT}
    promises = {
        "each row of a sealed file is stored, unless its job was stopped": due <= stored.keys(),
        "no row is stored twice": all(times == 1 for times in stored.values()),
        "nothing else is stored": stored.keys() <= rows,
        "each row has the content of its file": all(
            is_row_of_file(row.notification) for row in tables.rows.values()
        ),
        "each row ends in the right state": all(
            row.state
            in {life_of(number_of(id)).end} | other_ends.get(job_of_row(row.notification), set())
            for id, row in tables.rows.items()
        ),
        "there is one job for each seal, of the first upload with its key": (
            {
                id: job.seal.upload_id
                for id, job in jobs.items()
                if number_of(id) < AFTER_MIDNIGHT and id not in after_midnight
            }
            == {
                job_id(fate.number): upload_id(fate.number)
                for fate in fates
                if fate.upload.kind not in {"unsealed", *MIDNIGHT}
            }
        ),
        "of a file and its repetition after midnight one is the job": (
            sorted(id for job in jobs if (id := first_job(job)) in after_midnight)
            == sorted(after_midnight)
        ),
        "another body with a key is a cancelled job": (
            {id for id in jobs if number_of(id) >= OTHER_BODY}
            == {
                job_id(fate.number + OTHER_BODY)
                for fate in fates
                if fate.upload.kind == "repeated with another body"
            }
        )
        and all(tables.jobs.cancelled(id) for id in jobs if number_of(id) >= OTHER_BODY),
        "each job finishes, unless it is paused": all(
            job.finished_at
            for fate in fates
            for job in [
                jobs.get(job_id(fate.number)) or jobs.get(job_id(fate.number + AFTER_MIDNIGHT))
            ]
            if job and fate.sealed and fate.command != "paused"
        ),
        "nothing of a stopped job is ordered or claimed": stops_hold(world),
        "no job finishes before its rows have left the lane": no_early_finish(tables, fates),
        "no more chunks are ordered than the lane takes": backlog_is_bounded(tables),
        "no order is recorded before it is written": orders_are_written(world),
        "no chunk is ordered again, unless it could not be decrypted": bool(history.keyless)
        or "ordered-again" not in {event for event, *_ in tables.events},
        "nothing is booked that is not stored": (
            {*map(id_of, provider.booked)} <= tables.rows.keys()
        ),
        "nothing is booked twice unless it was recorded as sent again": all(
            times <= 1 + resent_times[id_of(number)] for number, times in provider.booked.items()
        ),
        "each record that cannot be stored becomes a dead letter": (
            dead == len(history.hopeless) + conflicting
        ),
        "Postgres's positions are at the end of the log": all(
            tables.positions.get(each, 0) == len(log[each])
            for each in world.kafka.partitions(JOBS.name, BULK, DELIVERY)
        ),
        "no hold stands at the end": not tables.held and not tables.jobs.held,
    }
    return {promise for promise, kept in promises.items() if not kept}


def job_of_row(notification: Notification) -> UUID:
    """Return the row's job, or the job that it repeats."""
    assert notification.job_id
    return first_job(notification.job_id)


def is_row_of_file(notification: Notification) -> bool:
    """Return whether the notification's encrypted content is that of its row in its file."""
    try:
        plain = RING.decrypt(notification.sealed, owner=notification.id.bytes)
    except Undecryptable:
        return False
    upload = number_of(job_of_row(notification))
    return read(decoder(Content), plain).to == recipient(upload, notification.job_row or 0)


def stops_hold(world: World) -> bool:
    """Return whether each stop held once Postgres knew it, whatever Postgres lost later.

    A job that repeats another one is left out: it may begin before its first request is read, and
    until then nobody knows that a stop of the first concerns it.
    """
    tables = world.store.tables
    job_of = {str(job.seal.upload_id): str(id) for id, job in tables.jobs.jobs.items()}
    job_of |= {str(id): str(row.notification.job_id) for id, row in tables.rows.items()}
    paused: set[str] = set()
    cancelled: set[str] = set()
    for event, id in world.journal:
        match event:
            case "job cancelled":
                cancelled.add(id)
            case "job paused":
                paused.add(id)
            case "job resumed":
                paused.discard(id)
            case "ordered" | "claimed" if job_of.get(id) in paused | cancelled:
                return False
            case "ordered-again" if job_of.get(id) in cancelled:
                return False
    return True


def no_early_finish(tables: Tables, fates: Iterable[Fate]) -> bool:
    """Return whether each row of a job was tried before it finished, unless it was cancelled."""
    rows_of = {job_id(fate.number): fate.upload.rows for fate in fates}
    ids_of = defaultdict(set)
    for id, row in tables.rows.items():
        ids_of[job_of_row(row.notification)].add(id)
    cancelled: set[UUID] = set()
    tried: set[UUID] = set()
    for event, id, _, made in tables.events:
        id = first_job(id)
        if event == "job cancelled":
            cancelled.add(id)
        elif event == "finished" and id not in cancelled:
            if len(ids_of[id] & tried) < rows_of.get(id, 0):
                return False
        elif made and event != "saved":
            tried.add(id)
    return True


def backlog_is_bounded(tables: Tables) -> bool:
    """Return whether at most four chunks, or half of the settled ones, were out at any time.

    Chunks of stopped jobs do not count.
    """
    job_of = {job.seal.upload_id: first_job(id) for id, job in tables.jobs.jobs.items()}
    out: set[tuple[UUID, int]] = set()
    stopped: set[UUID] = set()
    settled = 0
    for event, id, number, _ in tables.events:
        if event in {"job paused", "job cancelled"}:
            stopped.add(first_job(id))
        elif event == "job resumed":
            stopped.discard(first_job(id))
        elif event == "settled":
            settled += 1
            out.discard((id, number))
        elif event == "ordered-again":
            out.discard((id, number))
        elif event == "ordered":
            out.add((id, number))
            if sum(job_of[upload] not in stopped for upload, _ in out) > max(4, settled // 2):
                return False
    return True


def orders_are_written(world: World) -> bool:
    """Return whether each order that Postgres records is in the log."""
    job_of = {job.seal.upload_id: id for id, job in world.store.tables.jobs.jobs.items()}
    written = Counter(
        (order.job_id, order.number)
        for part in world.kafka.partitions(CHUNKS.name)
        for each in world.kafka.log[part]
        for order in [ChunkOrder.decode(each.value)]
    )
    recorded = Counter(
        (job_of[id], number)
        for event, id, number, _ in world.store.tables.events
        if event in {"ordered", "ordered-again"}
    )
    return recorded <= written
