"""Rendering a claimed row: decrypted, looked up and rendered, or reported as unsendable."""

import json
from dataclasses import replace
from datetime import timedelta
from email.header import decode_header, make_header
from email.utils import parseaddr
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from courant import clock, crypto
from courant.contracts import ENCODE, Content, KeyType, Outcome
from courant.directory.entries import Directory, Sender, Service, Template
from courant.render.email import Rendered
from courant.render.page import page
from courant.testing.builders import NOW, id_of
from courant.topics import Channel
from deliverer.calls import CallEntry, ClaimedRow, Deferred, Rejected, RenderedEmail, RenderedSms
from deliverer.content import Defaults, MessageRenderer, bulk_data, mailbox

RING = crypto.KeyRing({"a": bytes(32)})
SERVICE, TEMPLATE, SMS_TEMPLATE, EMPTY_TEMPLATE, SENDER = (UUID(int=n) for n in range(20, 25))


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    template: dict[str, Any] = {"version": 2, "service_id": SERVICE, "created_at": NOW}
    for entry in (
        Service(id=SERVICE, name="Bureau d’Été", email_from="ete"),
        Template(id=TEMPLATE, channel=Channel.EMAIL, name="a", subject="Hello ((name))",
                 body="# Dear ((name))\n\nSee you at **noon**.", **template),
        Template(id=SMS_TEMPLATE, channel=Channel.SMS, name="b", subject=None, body="Hi ((name)) –",
                 **template),
        Template(id=EMPTY_TEMPLATE, channel=Channel.SMS, name="c", subject=None, body="((gone??x))",
                 **template),
        Sender(id=SENDER, service_id=SERVICE, channel=Channel.EMAIL, value="reply@example.ca"),
    ):  # fmt: skip
        directory.put(entry)
    return directory


@pytest.fixture
def renderer(directory: Directory) -> MessageRenderer:
    return MessageRenderer(directory, RING, Defaults("notification.example", "+15005550006"))


def row(to: str = "Ana@Example.org", template: UUID = TEMPLATE, **changed: Any) -> ClaimedRow:
    content = ENCODE(Content(to=to, personalisation={"name": "Ana <b>", "gone": "no"}))
    claimed = ClaimedRow(
        id_of(1), 3, 0, SERVICE, KeyType.NORMAL, template, 2, None,
        RING.encrypt(content, id_of(1).bytes), NOW,
    )  # fmt: skip
    return replace(claimed, **changed)


def test_an_email_is_rendered_and_addressed(renderer: MessageRenderer) -> None:
    entry = renderer.render(row(sender_id=SENDER), Channel.EMAIL)
    assert isinstance(entry, CallEntry)
    assert isinstance(entry.message, RenderedEmail)
    assert (entry.to, entry.reply_to) == ("ana@example.org", "reply@example.ca")
    assert entry.source.endswith(" <ete@notification.example>")
    assert entry.source.isascii()
    assert entry.message.subject == "Hello Ana <b>"
    assert "Ana &lt;b&gt;" in entry.message.fragment
    assert "<strong>noon</strong>" in entry.message.fragment


def test_a_bulk_entry_makes_the_same_page_as_a_single_email(renderer: MessageRenderer) -> None:
    entry = renderer.render(row(), Channel.EMAIL)
    assert isinstance(entry, CallEntry)
    assert isinstance(entry.message, RenderedEmail)
    values = json.loads(entry.message.data)
    html = page("{{h}}", subject="{{e}}", text="{{p}}")
    for name, value in values.items():
        html = html.replace(f"{{{{{name}}}}}", value)
    assert html == page(entry.message.fragment, entry.message.subject, entry.message.text)
    assert (values["s"], values["t"]) == (entry.message.subject, entry.message.text)


def test_an_sms_has_its_prefix_and_its_origin(renderer: MessageRenderer) -> None:
    entry = renderer.render(row("613-253-2222", SMS_TEMPLATE), Channel.SMS)
    assert isinstance(entry, CallEntry)
    assert isinstance(entry.message, RenderedSms)
    assert (entry.to, entry.source) == ("+16132532222", "+15005550006")
    assert entry.message.body.endswith(": Hi Ana <b> -")


@pytest.mark.parametrize("earlier", [False, True])
def test_a_message_whose_key_is_missing_waits_without_blame(
    renderer: MessageRenderer, earlier: bool
) -> None:
    sealed = crypto.KeyRing({"b": b"b" * 32}).encrypt(b"{}", id_of(1).bytes)
    sealed = b"\x01b" + bytes(40) if earlier else sealed
    outcome = renderer.render(row(sealed=sealed), Channel.EMAIL)
    assert isinstance(outcome, Deferred)
    assert not outcome.blames
    assert outcome.retry_after == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("channel", "changed", "reason"),
    [
        (Channel.EMAIL, {"to": "nobody"}, "recipient: Not a valid email address"),
        (Channel.EMAIL, {"to": "é@example.org"}, "recipient: Not a valid email address"),
        (Channel.SMS, {"to": "12", "template": SMS_TEMPLATE}, "recipient: Not"),
        (Channel.SMS, {"to": "613-253-2222", "template": EMPTY_TEMPLATE}, "content: is empty"),
        (Channel.EMAIL, {"sealed": b"\x01a" + bytes(40)}, "sealed: does not open"),
        (Channel.EMAIL, {"sealed": b""}, "content: was emptied, its retention is over"),
        (Channel.EMAIL, {"sealed": RING.encrypt(b"{}", id_of(1).bytes)}, "Object missing"),
        (
            Channel.EMAIL,
            {"sealed": RING.encrypt(b'{"to":"a@b.ca"}', id_of(2).bytes)},
            "sealed: does",
        ),
    ],
)
def test_an_unsendable_row_reports_its_reason_but_no_recipient(
    renderer: MessageRenderer, channel: Channel, changed: dict[str, Any], reason: str
) -> None:
    outcome = renderer.render(row(**changed), channel)
    assert isinstance(outcome, Rejected)
    assert outcome.outcome is Outcome.UNSENDABLE
    assert outcome.reason.startswith(reason)
    assert "nobody" not in outcome.reason


@pytest.mark.parametrize(
    "changed",
    [{"template": UUID(int=99)}, {"template_version": 3}, {"service_id": UUID(int=99)},
     {"sender_id": UUID(int=99)}],
)  # fmt: skip
def test_a_row_whose_entry_a_complete_directory_lacks_is_retried_a_few_times(
    renderer: MessageRenderer, directory: Directory, changed: dict[str, Any]
) -> None:
    directory.grown_at = clock.now() - timedelta(hours=1)
    outcome = renderer.render(row(**changed), Channel.EMAIL)
    assert isinstance(outcome, Deferred)
    assert outcome.blames
    assert 1 < outcome.tries_max < 10


@pytest.mark.parametrize("changed", [{"template": UUID(int=99)}, {"service_id": UUID(int=99)}])
def test_a_row_is_not_blamed_while_the_directory_is_still_growing(
    renderer: MessageRenderer, directory: Directory, changed: dict[str, Any]
) -> None:
    directory.grown_at = clock.now() - timedelta(minutes=1)
    outcome = renderer.render(row(tries=2, **changed), Channel.EMAIL)
    assert isinstance(outcome, Deferred)
    assert not outcome.blames
    assert outcome.retry_after > timedelta()


def test_a_change_of_a_known_entry_is_no_growth(directory: Directory) -> None:
    size = directory.size
    directory.put(Service(id=SERVICE, name="renamed", number=5))
    assert directory.size == size
    directory.put(Service(id=UUID(int=77), name="new", number=6))
    assert directory.size == size + 1


def test_a_template_that_breaks_the_renderer_stops_no_lane(
    renderer: MessageRenderer, directory: Directory
) -> None:
    broken: Any = 7
    directory.put(
        Template(id=TEMPLATE, version=2, service_id=SERVICE, channel=Channel.EMAIL, name="a",
                 subject="", body=broken, created_at=NOW, number=1)
    )  # fmt: skip
    outcome = renderer.render(row(), Channel.EMAIL)
    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith("content: cannot be rendered")


def test_an_inactive_service_sends_nothing(renderer: MessageRenderer, directory: Directory) -> None:
    directory.put(Service(id=SERVICE, name="x", active=False, number=1))
    outcome = renderer.render(row(), Channel.EMAIL)
    assert outcome == Rejected("service: is not active", Outcome.UNSENDABLE)


@pytest.mark.parametrize("name", ["x" * 400, "é" * 400, "Ministère " * 60])
def test_a_long_name_is_cut_and_most_of_it_is_kept(name: str) -> None:
    header = mailbox(name, "us@example.ca")
    assert 290 < len(header) <= 320
    shown = str(make_header(decode_header(parseaddr(header)[0])))
    assert len(shown) > 20
    assert name.startswith(shown)


@pytest.mark.parametrize(
    ("email_from", "domain"), [("a" * 400, "x.ca"), ("us", "no host"), ("", "x.ca"), ("é", "x.ca")]
)
def test_a_from_address_that_is_not_valid_is_the_senders_fault(
    renderer: MessageRenderer, directory: Directory, email_from: str, domain: str
) -> None:
    service = Service(id=SERVICE, name="x", email_from=email_from, sending_domain=domain, number=1)
    directory.put(service)
    outcome = renderer.render(row(), Channel.EMAIL)
    assert outcome == Rejected("sender: its From address is not valid", Outcome.UNSENDABLE)


def test_a_reply_to_that_is_not_valid_is_the_senders_fault(
    renderer: MessageRenderer, directory: Directory
) -> None:
    directory.put(
        Sender(id=SENDER, service_id=SERVICE, channel=Channel.EMAIL, value="nobody", number=1)
    )
    outcome = renderer.render(row(sender_id=SENDER), Channel.EMAIL)
    assert outcome == Rejected("sender: its reply-to address is not valid", Outcome.UNSENDABLE)


@given(st.text(max_size=60), st.text(max_size=200), st.text(max_size=200))
@example("", '"' * 9000, "")
@example("", "\\" * 9000, "\n" * 9000)
@example("", "é" * 9000, "漢" * 9000)
@example("", "😀" * 9000, "")
def test_the_size_of_an_entry_is_never_less_than_the_bytes_sent(
    subject: str, text: str, html: str
) -> None:
    data, size_bytes = bulk_data(Rendered(subject, text, html))
    entry = {
        "Destination": {"ToAddresses": ["a" * 100 + "@example.org"]},
        "ReplacementTags": [
            {"Name": "courant_id", "Value": str(id_of(1))},
            {"Name": "courant_attempt", "Value": "2147483647"},
        ],
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": data}},
    }
    assert len(json.dumps(entry)) <= size_bytes


@given(st.text(max_size=2000))
@example("x" * 2000)
@example('"' * 2000)
@example("é" * 2000)
@example("漢字" * 1000)
@example("😀" * 2000)
def test_a_display_name_never_breaks_its_header(name: str) -> None:
    header = mailbox(name, "us@example.ca")
    assert header.isascii()
    assert len(header) <= 320
    assert "\n" not in header
    assert "\r" not in header
    assert header.endswith("us@example.ca>") or header == "us@example.ca"
