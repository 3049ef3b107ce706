"""What is written for a row: unsealed, looked up, rendered; or why it cannot be."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from courant import crypto
from courant.contracts import ENCODE, Content, KeyType, Outcome
from courant.directory.entries import Directory, Sender, Service, Template
from courant.render.email import Rendered
from courant.render.page import page
from courant.testing.builders import NOW, id_of
from courant.topics import Channel
from deliverer.calls import CallEntry, ClaimedRow, Deferred, Rejected, RenderedEmail, RenderedSms
from deliverer.content import Defaults, MessageRenderer, bulk_data, mailbox

RING = crypto.KeyRing({"a": bytes(32)})
SERVICE, TEMPLATE, TEXTS, EMPTY, SENDER = (UUID(int=n) for n in range(20, 25))


@pytest.fixture
def directory() -> Directory:
    found = Directory()
    template: dict[str, Any] = {"version": 2, "service_id": SERVICE, "created_at": NOW}
    for entry in (
        Service(id=SERVICE, name="Bureau d’Été", email_from="ete"),
        Template(id=TEMPLATE, channel=Channel.EMAIL, name="a", subject="Hello ((name))",
                 body="# Dear ((name))\n\nSee you at **noon**.", **template),
        Template(id=TEXTS, channel=Channel.SMS, name="b", subject=None, body="Hi ((name)) –",
                 **template),
        Template(id=EMPTY, channel=Channel.SMS, name="c", subject=None, body="((gone??x))",
                 **template),
        Sender(id=SENDER, service_id=SERVICE, channel=Channel.EMAIL, value="reply@example.ca"),
    ):  # fmt: skip
        found.put(entry)
    return found


@pytest.fixture
def renderer(directory: Directory) -> MessageRenderer:
    return MessageRenderer(directory, RING, Defaults("notification.example", "+15005550006"))


def row(to: str = "Ana@Example.org", template: UUID = TEMPLATE, **changed: Any) -> ClaimedRow:
    content = ENCODE(Content(to=to, personalisation={"name": "Ana <b>", "gone": "no"}))
    made = ClaimedRow(
        id_of(1), 3, 0, SERVICE, KeyType.NORMAL, template, 2, None,
        RING.encrypt(content, id_of(1).bytes), NOW,
    )  # fmt: skip
    return replace(made, **changed)


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


def test_a_bulk_entry_gives_the_same_page_as_a_single_mail(renderer: MessageRenderer) -> None:
    entry = renderer.render(row(), Channel.EMAIL)
    assert isinstance(entry, CallEntry)
    assert isinstance(entry.message, RenderedEmail)
    values = json.loads(entry.message.data)
    html = page("{{h}}", subject="{{e}}", text="{{p}}")
    for name, value in values.items():
        html = html.replace(f"{{{{{name}}}}}", value)
    assert html == page(entry.message.fragment, entry.message.subject, entry.message.text)
    assert (values["s"], values["t"]) == (entry.message.subject, entry.message.text)


def test_a_text_has_its_prefix_and_its_origin(renderer: MessageRenderer) -> None:
    entry = renderer.render(row("613-253-2222", TEXTS), Channel.SMS)
    assert isinstance(entry, CallEntry)
    assert isinstance(entry.message, RenderedSms)
    assert (entry.to, entry.source) == ("+16132532222", "+15005550006")
    assert entry.message.body.endswith(": Hi Ana <b> -")


@pytest.mark.parametrize(
    ("channel", "changed", "reason"),
    [
        (Channel.EMAIL, {"to": "nobody"}, "recipient: Not a valid email address"),
        (Channel.EMAIL, {"to": "é@example.org"}, "recipient: Not a valid email address"),
        (Channel.SMS, {"to": "12", "template": TEXTS}, "recipient: Not"),
        (Channel.SMS, {"to": "613-253-2222", "template": EMPTY}, "content: is empty"),
        (Channel.EMAIL, {"sealed": b"\x01a" + bytes(40)}, "sealed: does not open"),
        (Channel.EMAIL, {"sealed": b"\x01b" + bytes(40)}, "sealed: by a key"),
        (Channel.EMAIL, {"sealed": b""}, "sealed: by a key"),
        (Channel.EMAIL, {"sealed": RING.encrypt(b"{}", id_of(1).bytes)}, "Object missing"),
        (
            Channel.EMAIL,
            {"sealed": RING.encrypt(b'{"to":"a@b.ca"}', id_of(2).bytes)},
            "sealed: does",
        ),
    ],
)
def test_what_cannot_be_sent_says_why_and_not_to_whom(
    renderer: MessageRenderer, channel: Channel, changed: dict[str, Any], reason: str
) -> None:
    said = renderer.render(row(**changed), channel)
    assert isinstance(said, Rejected)
    assert said.outcome is Outcome.UNSENDABLE
    assert said.reason.startswith(reason)
    assert "nobody" not in said.reason


@pytest.mark.parametrize(
    "changed",
    [{"template": UUID(int=99)}, {"template_version": 3}, {"service_id": UUID(int=99)},
     {"sender_id": UUID(int=99)}],
)  # fmt: skip
def test_what_the_directory_does_not_know_yet_is_waited_for_a_few_times(
    renderer: MessageRenderer, changed: dict[str, Any]
) -> None:
    said = renderer.render(row(**changed), Channel.EMAIL)
    assert isinstance(said, Deferred)
    assert said.blames
    assert 1 < said.tries_max < 10


def test_a_template_that_breaks_the_renderer_stops_no_lane(
    renderer: MessageRenderer, directory: Directory
) -> None:
    broken: Any = 7
    directory.put(
        Template(id=TEMPLATE, version=2, service_id=SERVICE, channel=Channel.EMAIL, name="a",
                 subject="", body=broken, created_at=NOW, number=1)
    )  # fmt: skip
    said = renderer.render(row(), Channel.EMAIL)
    assert isinstance(said, Rejected)
    assert said.reason.startswith("content: cannot be rendered")


def test_a_service_that_was_switched_off_sends_nothing(
    renderer: MessageRenderer, directory: Directory
) -> None:
    directory.put(Service(id=SERVICE, name="x", active=False, number=1))
    said = renderer.render(row(), Channel.EMAIL)
    assert said == Rejected("service: is not active", Outcome.UNSENDABLE)


@given(st.text(max_size=60), st.text(max_size=200), st.text(max_size=200))
@example("", '"' * 9000, "")
@example("", "\\" * 9000, "\n" * 9000)
@example("", "é" * 9000, "漢" * 9000)
@example("", "😀" * 9000, "")
def test_an_entrys_size_is_never_less_than_what_goes_over_the_wire(
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


@given(st.text(max_size=300))
def test_a_display_name_never_breaks_its_header(name: str) -> None:
    written = mailbox(name, "us@example.ca")
    assert written.isascii()
    assert "\n" not in written
    assert "\r" not in written
    assert written.endswith("us@example.ca>") or written == "us@example.ca"
