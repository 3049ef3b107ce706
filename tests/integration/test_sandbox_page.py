"""The inbox shows what was sent, and lets nothing of it run."""

import base64
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest

from support.sandbox_process import Sandbox, bulk, email, running, text

HOSTILE = '"></iframe><script>alert(1)</script><img src="http://outside.example/x.png">'


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def ses(sandbox: Sandbox) -> Any:
    return sandbox.client("sesv2")


def test_an_empty_inbox_says_so(sandbox: Sandbox) -> None:
    assert "Nothing was sent yet" in sandbox.get("/").text


def test_a_message_is_listed_found_and_shown(sandbox: Sandbox, ses: Any) -> None:
    to = f"{uuid4()}@example.ca"
    message_id = ses.send_email(**email(to))["MessageId"]
    sandbox.client("pinpoint-sms-voice-v2").send_text_message(**text("+16135550177", "a"))
    inbox = sandbox.get("/").text
    assert inbox.index("+16135550177") < inbox.index(to), "newest first"
    assert to in sandbox.get(f"/?q={to[:8].upper()}").text
    assert to not in sandbox.get("/?channel=sms").text
    assert "Nothing among the newest" in sandbox.get("/?q=elsewhere").text
    shown = sandbox.get(f"/messages/{message_id}").text
    assert 'srcdoc="&lt;p&gt;A text&lt;/p&gt;"' in shown
    assert "<pre>A text</pre>" in sandbox.get(f"/messages/{message_id}?part=text").text


def test_hostile_html_stays_inside_a_frame_that_may_do_nothing(sandbox: Sandbox, ses: Any) -> None:
    data = {"s": HOSTILE, "t": HOSTILE, "h": HOSTILE}
    answer = ses.send_bulk_email(**bulk([("someone@example.ca", "hostile")], data))
    message_id = answer["BulkEmailEntryResults"][0]["MessageId"]
    for path in ("/", f"/messages/{message_id}", f"/messages/{message_id}?part=text"):
        page = sandbox.get(path)
        assert "<script" not in page.text
        assert "<img" not in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "img-src data:;" in policy
    assert '<iframe sandbox="" srcdoc="' in sandbox.get(f"/messages/{message_id}").text


def test_a_raw_message_is_taken_apart(sandbox: Sandbox, ses: Any) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.ca", "raw@example.ca", "Été"
    mail.set_content("Du texte\n")
    mail.add_alternative("<p>Du <b>texte</b></p>", subtype="html")
    message_id = ses.send_email(Content={"Raw": {"Data": mail.as_bytes()}})["MessageId"]
    shown = sandbox.get(f"/messages/{message_id}").text
    assert "<h1>Été</h1>" in shown
    assert "&lt;b&gt;texte&lt;/b&gt;" in shown
    assert "Du texte" in sandbox.get("/").text
    assert base64.b64encode(mail.as_bytes()).decode()[:40] not in shown


def test_a_text_message_is_a_bubble(sandbox: Sandbox) -> None:
    call = text("+16135550177", "a", MessageBody="Hi <b> & you")
    message_id = sandbox.client("pinpoint-sms-voice-v2").send_text_message(**call)["MessageId"]
    shown = sandbox.get(f"/messages/{message_id}").text
    assert '<p class="bubble">Hi &lt;b&gt; &amp; you</p>' in shown


def test_a_message_that_is_not_kept_is_404(sandbox: Sandbox) -> None:
    assert sandbox.get("/messages/unknown").status_code == 404
    assert sandbox.get("/elsewhere").status_code == 404


def test_many_messages_are_cut_into_pages(sandbox: Sandbox, ses: Any) -> None:
    ses.send_bulk_email(**bulk([(f"many{n}@example.ca", str(n)) for n in range(50)]))
    ses.send_email(**email("newer@example.ca"))
    first, second = (sandbox.get(f"/?page={page}").text for page in (1, 2))
    assert "newer@example.ca" in first
    assert "many0@example.ca" not in first
    assert "many0@example.ca" in second
