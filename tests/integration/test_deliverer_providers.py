"""The providers before the sandbox, over real HTTP: what each answer, or its lack, is taken for."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from courant import ids
from courant.contracts import KeyType, Outcome
from courant.render.email import Rendered
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    CallEntry,
    ClaimedRow,
    ProviderOutcome,
    Rejected,
    RenderedEmail,
    RenderedSms,
    RetryAlone,
    Throttled,
    Unknown,
)
from deliverer.content import bulk_data
from deliverer.pool import Provider
from deliverer.providers import aws
from deliverer.providers.ses import Ses
from deliverer.providers.sms import EndUserMessaging, Sns
from support.sandbox_process import Sandbox, free_port

NOW = datetime.now(UTC)
SOURCE = "=?utf-8?q?Bureau_d=E2=80=99=C3=89t=C3=A9?= <us@example.ca>"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    sandbox.start()
    yield sandbox
    sandbox.end(signal.SIGTERM)


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ca-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.url)
    sandbox.reset()


@pytest.fixture
def clients() -> Iterator[Any]:
    """Make clients, and close them."""
    made = []

    def make(service: str, read_seconds: float = 5) -> Any:
        made.append(aws.make_client(service, 2, 0.5, read_seconds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def entry(to: str) -> CallEntry:
    row = ClaimedRow(
        ids.new(NOW), 4, 0, UUID(int=7), KeyType.NORMAL, UUID(int=9), 1, None, b"", NOW
    )  # fmt: skip
    if to.startswith("+"):
        return CallEntry(row, "+15005550006", None, to, RenderedSms("hello"), 100)
    rendered = Rendered('A “subject” & <more> \\ "', "text é\n" * 9, "<p>text é &amp; {more}</p>")
    data, size_bytes = bulk_data(rendered)
    mail = RenderedEmail(rendered.subject, rendered.text, rendered.html, data)
    return CallEntry(row, SOURCE, "reply@example.ca", to, mail, size_bytes)


def send(provider: Provider, *to: str) -> tuple[list[ProviderOutcome], list[CallEntry]]:
    entries = tuple(entry(each) for each in to)
    return list(provider.send(Call(ids.new(NOW), entries))), list(entries)


def booked(sandbox: Sandbox, entry: CallEntry) -> list[dict[str, Any]]:
    return [line for line in sandbox.ledger() if line["notification_id"] == str(entry.row.id)]


@pytest.mark.parametrize(
    ("to", "expected", "times"),
    [
        ("ana@example.org", Accepted, 1),
        ("bounce@example.org", Accepted, 1),
        ("throttle@example.org", Throttled, 0),
        ("reject@example.org", Rejected, 0),
        ("two@@example.org", Rejected, 0),
        ("error@example.org", Unknown, 0),
        ("lost@example.org", Unknown, 1),
        ("hang@example.org", Unknown, 1),
        ("cut@example.org", Unknown, 1),
    ],
)
def test_an_email_alone(
    sandbox: Sandbox, clients: Any, to: str, expected: type, times: int
) -> None:
    [said], [entry] = send(Ses(clients("sesv2", read_seconds=0.7), None), to)
    assert type(said) is expected
    lines = booked(sandbox, entry)
    assert len(lines) == times
    assert {(line["to"], str(line["attempt"])) for line in lines} <= {(to, "4")}


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("throttle@example.org", [Accepted, Throttled, Accepted]),
        ("reject@example.org", [Accepted, Rejected, Accepted]),
        ("two@@example.org", [RetryAlone, RetryAlone, RetryAlone]),
        ("error@example.org", [Unknown, Unknown, Unknown]),
        ("lost@example.org", [Unknown, Unknown, Unknown]),
        ("hang@example.org", [Unknown, Unknown, Unknown]),
        ("cut@example.org", [Unknown, Unknown, Unknown]),
    ],
)
def test_one_of_three_emails_in_a_call(
    sandbox: Sandbox, clients: Any, to: str, expected: list[type]
) -> None:
    ses = Ses(clients("sesv2", read_seconds=0.7), None)
    said, entries = send(ses, "a@example.org", to, "b@example.org")
    assert [type(each) for each in said] == expected
    for each, entry in zip(said, entries, strict=True):
        if not isinstance(each, Unknown):
            assert len(booked(sandbox, entry)) == isinstance(each, Accepted)


def test_in_bulk_and_alone_the_same_mail_arrives(sandbox: Sandbox, clients: Any) -> None:
    ses = Ses(clients("sesv2"), None)
    _, alone = send(ses, "ana@example.org")
    _, together = send(ses, "ana@example.org", "ana@example.org")
    hashes = {line["body_hash"] for each in alone + together for line in booked(sandbox, each)}
    assert len(hashes) == 1
    assert len(booked(sandbox, together[1])) == 1


@pytest.mark.parametrize(
    ("to", "expected", "times"),
    [
        ("+16132532222", Accepted, 1),
        ("+16132530004", Rejected, 0),
        ("+16132530006", Throttled, 0),
        ("+16132530007", Unknown, 0),
        ("+16132530008", Unknown, 1),
        ("+16132530015", Rejected, 0),
        ("+16132530016", Unknown, 1),
        ("+16132530017", Unknown, 1),
    ],
)
def test_a_text(sandbox: Sandbox, clients: Any, to: str, expected: type, times: int) -> None:
    client = clients("pinpoint-sms-voice-v2", read_seconds=0.7)
    [said], [entry] = send(EndUserMessaging(client, None), to)
    assert type(said) is expected
    assert len(booked(sandbox, entry)) == times


def test_who_opted_out_is_told_in_the_apis_words(clients: Any) -> None:
    [said], _ = send(EndUserMessaging(clients("pinpoint-sms-voice-v2"), None), "+16132530004")
    assert isinstance(said, Rejected)
    assert (said.outcome, said.response) == (Outcome.UNSENDABLE, "Phone number is opted out")


@pytest.mark.parametrize(
    ("to", "expected"),
    [("+16132532222", Accepted), ("+16132530006", Throttled), ("+16132530008", Unknown),
     ("+16132530017", Unknown)],
)  # fmt: skip
def test_a_text_by_sns(clients: Any, to: str, expected: type) -> None:
    [said], _ = send(Sns(clients("sns")), to)
    assert type(said) is expected
    assert not isinstance(said, Accepted) or said.outcome is Outcome.HANDED_OVER


def test_an_address_where_nobody_listens_is_trouble_and_blames_no_message(
    clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    said, _ = send(Ses(clients("sesv2"), None), "a@example.org", "b@example.org")
    assert [type(each) for each in said] == [AccountTrouble, AccountTrouble]


def test_the_accounts_own_rate_is_read(clients: Any) -> None:
    assert Ses(clients("sesv2"), None).rate() == 100_000


@pytest.mark.parametrize("service", ["sesv2", "pinpoint-sms-voice-v2", "sns"])
def test_a_call_that_fails_is_one_request_and_no_more(
    clients: Any, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    asked: list[str] = []

    class Fails(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Fails) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        client = clients(service)
        provider: Provider = {"sesv2": Ses(client, None), "sns": Sns(client)}.get(
            service, EndUserMessaging(client, None)
        )
        [said], _ = send(provider, "a@example.org" if service == "sesv2" else "+16132532222")
        server.shutdown()
    assert isinstance(said, Unknown)
    assert len(asked) == 1
