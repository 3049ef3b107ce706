"""The providers against the sandbox over real HTTP: the outcome of each answer, or of none."""

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
    Refusal,
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
from support.waiting import ANSWER_SECONDS, wait

NOW = datetime.now(UTC)
HANGING = {"hang@example.org", "+16132530016"}  # are never answered
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
    """Return a function that makes clients; close them at the end."""
    clients = []

    def make(service: str, read_seconds: float = ANSWER_SECONDS) -> Any:
        clients.append(aws.make_client(service, 2, ANSWER_SECONDS, read_seconds))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


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
    entries = tuple(map(entry, to))
    return list(provider.send(Call(ids.new(NOW), entries))), list(entries)


def booked(sandbox: Sandbox, entry: CallEntry) -> list[dict[str, Any]]:
    return [line for line in sandbox.ledger() if line["notification_id"] == str(entry.row.id)]


def read_seconds(to: str) -> float:
    """Return a short timeout for an answer that never comes, and a long one for all others."""
    return 0.7 if to in HANGING else ANSWER_SECONDS


@pytest.mark.parametrize(
    ("to", "expected", "times"),
    [
        ("ana@example.org", Accepted, 1),
        ("bounce@example.org", Accepted, 1),
        ("throttle@example.org", Throttled, 0),
        ("reject@example.org", Refusal, 0),
        ("two@@example.org", Refusal, 0),
        ("error@example.org", Unknown, 0),
        ("lost@example.org", Unknown, 1),
        ("hang@example.org", Unknown, 1),
        ("cut@example.org", Unknown, 1),
    ],
)
def test_one_email(sandbox: Sandbox, clients: Any, to: str, expected: type, times: int) -> None:
    [outcome], [entry] = send(Ses(clients("sesv2", read_seconds(to)), None), to)
    assert type(outcome) is expected
    # A send that hangs may not be booked yet when its caller gives up.
    wait(lambda: len(booked(sandbox, entry)) == times)
    lines = booked(sandbox, entry)
    assert {(line["to"], str(line["attempt"])) for line in lines} <= {(to, "4")}


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("throttle@example.org", [Accepted, Throttled, Accepted]),
        ("reject@example.org", [Accepted, Refusal, Accepted]),
        ("two@@example.org", [RetryAlone, RetryAlone, RetryAlone]),
        ("error@example.org", [Unknown, Unknown, Unknown]),
        ("lost@example.org", [Unknown, Unknown, Unknown]),
        ("hang@example.org", [Unknown, Unknown, Unknown]),
        ("cut@example.org", [Unknown, Unknown, Unknown]),
    ],
)
def test_three_emails_in_one_call(
    sandbox: Sandbox, clients: Any, to: str, expected: list[type]
) -> None:
    ses = Ses(clients("sesv2", read_seconds(to)), None)
    outcomes, entries = send(ses, "a@example.org", to, "b@example.org")
    assert [type(outcome) for outcome in outcomes] == expected
    for outcome, entry in zip(outcomes, entries, strict=True):
        if not isinstance(outcome, Unknown):
            assert len(booked(sandbox, entry)) == isinstance(outcome, Accepted)


def test_bulk_and_single_calls_send_the_same_email(sandbox: Sandbox, clients: Any) -> None:
    ses = Ses(clients("sesv2"), None)
    _, alone = send(ses, "ana@example.org")
    _, together = send(ses, "ana@example.org", "ana@example.org")
    hashes = {line["body_hash"] for entry in alone + together for line in booked(sandbox, entry)}
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
        ("+16132530015", Refusal, 0),
        ("+16132530016", Unknown, 1),
        ("+16132530017", Unknown, 1),
    ],
)
def test_one_sms(sandbox: Sandbox, clients: Any, to: str, expected: type, times: int) -> None:
    client = clients("pinpoint-sms-voice-v2", read_seconds(to))
    [outcome], [entry] = send(EndUserMessaging(client, None), to)
    assert type(outcome) is expected
    wait(lambda: len(booked(sandbox, entry)) == times)


def test_an_opted_out_recipient_gets_the_response_that_our_api_promises(clients: Any) -> None:
    [outcome], _ = send(EndUserMessaging(clients("pinpoint-sms-voice-v2"), None), "+16132530004")
    assert isinstance(outcome, Rejected)
    assert (outcome.outcome, outcome.response) == (Outcome.UNSENDABLE, "Phone number is opted out")


@pytest.mark.parametrize(
    ("to", "expected"),
    [("+16132532222", Accepted), ("+16132530006", Throttled), ("+16132530008", Unknown),
     ("+16132530017", Unknown)],
)  # fmt: skip
def test_one_sms_through_sns(clients: Any, to: str, expected: type) -> None:
    [outcome], _ = send(Sns(clients("sns")), to)
    assert type(outcome) is expected
    assert not isinstance(outcome, Accepted) or outcome.outcome is Outcome.HANDED_OVER


def test_a_refused_connection_is_account_trouble_and_blames_no_message(
    clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    outcomes, _ = send(Ses(clients("sesv2"), None), "a@example.org", "b@example.org")
    assert [type(outcome) for outcome in outcomes] == [AccountTrouble, AccountTrouble]


def test_the_rate_of_the_account_is_read(clients: Any) -> None:
    assert Ses(clients("sesv2"), None).rate() == 100_000


@pytest.mark.parametrize("service", ["sesv2", "pinpoint-sms-voice-v2", "sns"])
def test_a_failed_call_makes_one_request_only(
    clients: Any, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    requests: list[str] = []

    class FailingHandler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.path)
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), FailingHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        client = clients(service)
        provider: Provider = {"sesv2": Ses(client, None), "sns": Sns(client)}.get(
            service, EndUserMessaging(client, None)
        )
        [outcome], _ = send(provider, "a@example.org" if service == "sesv2" else "+16132532222")
        server.shutdown()
    assert isinstance(outcome, Unknown)
    assert len(requests) == 1
