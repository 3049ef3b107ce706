"""The audit and `courant restore`, on a real PostgreSQL and a real Kafka."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import Engine

from courant import clock, metrics
from courant.contracts import (
    Attempt,
    AttemptOutcome,
    Outcome,
    Outcomes,
    Receipt,
    ReceiptKind,
    Started,
)
from courant.records import Outgoing
from courant.testing import builders
from courant.testing.builders import DELIVERY, INBOX, RECEIPTS
from courant.topics import JOBS
from courant_cli import restore
from courant_local.kafka import Broker
from courant_local.plan import CommandError
from recovery.audit import accepted, log, rounds, store
from recovery.audit.rounds import Audit
from support import mistakes
from support.audit import Site, new
from support.job_runner import upload

SITES = count()


@pytest.fixture
def site(engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(rounds, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "WALK_SECONDS", 0.0)
    with ExitStack() as parts:
        yield Site(engine, broker, f"audit{next(SITES)}", parts)


def missing(audit: Audit) -> set[UUID]:
    audit.make_round()
    return {each.id for each in audit.missing.values()}


def test_ten_rows_that_were_deleted_by_hand_are_found_and_no_other(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    began = clock.now()
    sixty = site.accept(*(new() for _ in range(60)))
    site.fold(INBOX)
    with site.auditing() as audit, caplog.at_level(logging.ERROR):
        assert missing(audit) == set()
        site.delete(sixty[:10])
        assert missing(audit) == {*sixty[:10]}
        assert missing(audit) == {*sixty[:10]}
        [line] = [each.__dict__ for each in caplog.records if "are missing" in each.getMessage()]
        assert line["missing"] == 10
        assert {*line["ids"]} <= {*map(str, sixty[:10])}
        since = restore.time_of(line["restore_since"], clock.now())
        assert abs((since - began).total_seconds()) < 60
        assert line["runbook"].startswith("docs/runbooks/recovery.md#")


def test_a_row_that_vanished_before_the_first_look_is_found(site: Site) -> None:
    [gone, _] = site.accept(new(), new())
    site.fold(INBOX)
    site.delete([gone])
    with site.auditing() as audit:
        assert missing(audit) == {gone}


def test_a_row_that_vanished_late_is_found_by_the_walk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "YOUNG", -rounds.YOUNG)  # nothing is young
    [gone, sent] = site.accept(new(), new())
    site.fold(INBOX)
    site.ask("UPDATE notifications SET state = 'delivered'")
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.delete([gone])
        assert missing(audit) == {gone}
    assert sent


def test_what_became_something_else_than_a_row_is_not_missing(site: Site) -> None:
    key = {"idempotency_key": b"k", "body_hash": b"body"}
    first, alias = new(**key), new(**key)
    conflict, refused = new(**{**key, "body_hash": b"other"}), new(reference="a\0b")
    unreadable, stranger = new(), new()
    site.accept(first)
    site.fold(INBOX)
    site.accept(alias, conflict, refused)
    site.write(
        Outgoing(INBOX, unreadable.id.bytes, b"?"),
        Outgoing(INBOX, b"no id", stranger.encode()),
    )
    site.fold(INBOX)
    # A request with another body has a row that shows its refusal.
    assert {id for id, *_ in site.states()} == {first.id, conflict.id}
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.ask("DELETE FROM aliases")
        assert missing(audit) == {alias.id}


def test_a_dead_letter_that_was_sent_back_must_be_a_row(site: Site) -> None:
    bad = new(reference="a\0b")
    site.accept(bad)
    site.fold(INBOX)
    site.accept(msgspec.structs.replace(bad, reference=None))
    site.fold(INBOX)
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.delete([bad.id])
        assert missing(audit) == {bad.id}


def test_what_is_not_folded_yet_is_not_missing(site: Site) -> None:
    site.accept(new())
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.fold(INBOX)
        assert missing(audit) == set()


def test_jobs_and_their_rows_are_looked_for(site: Site) -> None:
    key = {"idempotency_key": b"k", "body_hash": b"body"}
    whole, alias = upload(3, **key), upload(3, **key)
    conflict = upload(3, idempotency_key=b"k", body_hash=b"other")
    for each in (whole, alias, conflict):
        site.write(*each.outgoing())
        site.fold(JOBS.name)
    site.write(Outgoing(JOBS.name, b"x", b"?"), *upload(3).outgoing()[:-1])
    site.fold(JOBS.name)
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.ask("DELETE FROM jobs")
        assert missing(audit) == {whole.job_id}


def test_a_walk_in_small_parts_comes_to_the_end_and_begins_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "YOUNG", -rounds.YOUNG)
    monkeypatch.setattr(rounds, "WALK_BYTES", 1)
    monkeypatch.setattr(log, "STEP_MAX", 2)
    gone, *_ = site.accept(*(new() for _ in range(9)))
    site.fold(INBOX)
    site.ask("UPDATE notifications SET state = 'delivered'")
    with site.auditing() as audit:
        audit.make_round()
        site.delete([gone])
        turns = [missing(audit) for _ in range(12)]
        assert turns[-1] == {gone}


def test_young_rows_are_looked_for_again_without_the_walk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Audit, "_walk", lambda *_: None)
    [gone] = site.accept(new())
    site.fold(INBOX)
    with site.auditing() as audit:
        assert missing(audit) == set()
        site.delete([gone])
        assert missing(audit) == {gone}


def test_the_process_that_audits_next_finds_what_is_missing_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "YOUNG", -rounds.YOUNG)
    monkeypatch.setattr(Audit, "_walk", lambda *_: None)
    ids = site.accept(*(new() for _ in range(9)))
    site.fold(INBOX)
    site.delete(ids[:1])
    with site.auditing() as audit, site.auditing() as other:
        assert missing(audit) == {ids[0]}
        assert missing(other) == set()  # one process audits
        audit._close()  # as when its connection is lost
        assert missing(other) == {ids[0]}


def test_the_audit_goes_on_after_an_error_and_shows_how_long_it_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.accept(new())
    site.fold(INBOX)
    turns = count()
    with site.auditing() as audit, monkeypatch.context() as patch:
        patch.setattr(rounds.rules, "folded", lambda *_: 1 / 0)
        audit.run(lambda: next(turns) > 1, lambda _: None)
        patch.undo()
        assert missing(audit) == set()
    shown = {sample.labels["part"] for m in metrics.AUDIT_AGE.collect() for sample in m.samples}
    assert shown == {"new", "all"}


def test_nothing_is_reported_while_a_load_is_folded(site: Site) -> None:
    with site.auditing() as audit:
        done = threading.Event()

        def load() -> None:
            try:
                for _ in range(10):
                    site.accept(*(new() for _ in range(50)), new(reference="a\0b"))
                    site.fold(INBOX)
            finally:
                done.set()

        writer = threading.Thread(target=load)
        writer.start()
        looks = 0
        while not done.is_set() or looks < 2:
            assert missing(audit) == set()
            looks += 1
        writer.join()
    assert len(site.states()) == 500


def sent(id: UUID, call: int, *says: str) -> list[Outgoing]:
    """Return the records of a call that was accepted, and of its receipts."""
    started = Started(call=UUID(int=call), attempts=(Attempt(id=id, attempt=1),))
    answer = AttemptOutcome(id=id, attempt=1, outcome=Outcome.ACCEPTED)
    outcomes = Outcomes(call=UUID(int=call), answers=(answer,))
    receipts = (Receipt(id=id, attempt=1, says=ReceiptKind(each)) for each in says)
    return [*map(builders.outgoing, (started, outcomes, *receipts))]


def restored(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, since: str = "10m"
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", site.cluster.bootstrap_servers)
    monkeypatch.setenv("COURANT_TOPIC_PREFIX", site.cluster.topic_prefix)
    monkeypatch.setenv("COURANT_GROUP_PREFIX", site.cluster.group_prefix)
    monkeypatch.setenv("DATABASE_URL", site.engine.url.render_as_string(False))
    monkeypatch.setenv("COURANT_HOME", str(tmp_path))
    restore.restore(since, yes=True)


def test_a_restore_brings_the_rows_back_as_they_were_and_moves_no_other(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = site.accept(*(new() for _ in range(6)))
    site.fold(INBOX)
    thrice = "delivered delayed delivered"
    stories = [thrice, "delivered delayed", thrice, "bounced", ""]
    for call, (id, says) in enumerate(zip(ids, stories, strict=False), 1):
        site.write(*sent(id, call, *says.split()))
    site.mark()
    site.fold(DELIVERY)
    site.fold(RECEIPTS)
    before = site.states()
    events = site.ask("SELECT id, move, attempt, made FROM events ORDER BY number")
    gone = [ids[1], ids[2], ids[5]]
    with site.auditing() as audit:
        site.delete(gone)
        assert missing(audit) == {*gone}
        restored(site, monkeypatch, tmp_path)
        assert missing(audit) == set()  # they are to be folded
        site.fold(INBOX)
        site.mark()
        site.fold(DELIVERY)
        site.fold(RECEIPTS)
        assert missing(audit) == set()
    assert site.states() == before
    again = site.ask("SELECT id, move, attempt, made FROM events ORDER BY number")
    assert {id for id, *_ in again[len(events) :]} == {*gone}
    assert site.ask("SELECT reason, stands FROM holds WHERE scope = 'rebuild'") != []
    assert "6 of inbox" in capsys.readouterr().out


def test_a_restore_from_later_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.accept(new())
    site.fold(INBOX)
    before = site.ask("SELECT * FROM positions")
    monkeypatch.setattr(restore, "CLOCKS", -restore.CLOCKS)
    restored(site, monkeypatch, tmp_path, "1s")
    assert site.ask("SELECT * FROM positions") == before


@pytest.mark.parametrize("since", ["yesterday", "2999-01-01", "15d", "h", "2026-13-01"])
def test_a_time_that_cannot_be_is_refused_in_one_line(since: str) -> None:
    with pytest.raises(CommandError) as raised:
        restore.time_of(since, clock.now())
    assert "\n" not in str(raised.value)


# For each mistake: the test that detects it, the owner, the name in it, the right and wrong words.
MISTAKES: dict[str, tuple[Callable[..., None], Any, str, str, str]] = {
    "aliases are missing": (
        test_what_became_something_else_than_a_row_is_not_missing,
        store.AuditStore,
        "look",
        "found |= _ids(cursor, ALIASES, lost)",
        "pass",
    ),
    "dead letters are missing": (
        test_what_became_something_else_than_a_row_is_not_missing,
        Audit,
        "_look",
        "self._log.dead(new) if new else set()",
        "set()",
    ),
    "what is to be folded again is missing": (
        test_a_restore_brings_the_rows_back_as_they_were_and_moves_no_other,
        store.AuditStore,
        "look",
        "if each.offset < positions[each.partition]",
        "",
    ),
    "nothing is looked for again": (
        test_young_rows_are_looked_for_again_without_the_walk,
        Audit,
        "_look_again",
        "self._look([*self._window])",
        "set()",
    ),
    "one walk only": (
        test_a_row_that_vanished_late_is_found_by_the_walk,
        Audit,
        "_walk",
        "self._walked = reached = dict.fromkeys(ends, 0)",
        "pass",
    ),
    "the place runs ahead of what is missing": (
        test_the_process_that_audits_next_finds_what_is_missing_at_once,
        accepted,
        "held_back",
        "if each.partition in kept",
        "if False",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_detected(
    mistake: str, request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, *where = MISTAKES[mistake]
    mistakes.replace(monkeypatch, *where)  # type: ignore[arg-type]  # mypy keeps no tuple's rest
    given = {name: request.getfixturevalue(name) for name in signature(case).parameters}
    with pytest.raises(AssertionError):
        case(**given)
    assert site
