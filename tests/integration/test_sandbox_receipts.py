"""Receipts go out as SNS sends them, signed, and what is booked outlives a kill of the process."""

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from support.sandbox_process import Receiver, Sandbox, bulk, email, running, text
from support.waiting import ANSWER_SECONDS, wait

TOPIC = "arn:aws:sns:ca-central-1:123456789012:courant-receipts"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Sandbox]:
    directory = tmp_path_factory.mktemp("sandbox")
    with running(directory, SANDBOX_RECEIPTS_URL=receiver.url) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: Sandbox, receiver: Receiver) -> Iterator[Sandbox]:
    wait(lambda: process.calls()["receipts_confirmed"])
    yield process
    receiver.status = 200
    process.reset()


@pytest.fixture(scope="module")
def ses(process: Sandbox) -> Any:
    return process.client("sesv2")


@pytest.fixture(scope="module")
def sms(process: Sandbox) -> Any:
    return process.client("pinpoint-sms-voice-v2")


def verify(envelope: dict[str, str], names: list[str]) -> None:
    """Check a signature by SNS's own description of it; raises InvalidSignature."""
    signed = ""
    for name in names:
        signed = signed + name + "\n" + envelope[name] + "\n"
    certificate = x509.load_pem_x509_certificate(
        httpx2.get(envelope["SigningCertURL"], timeout=ANSWER_SECONDS).content
    )
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}[envelope["SignatureVersion"]]
    key.verify(
        base64.b64decode(envelope["Signature"]), signed.encode(), padding.PKCS1v15(), algorithm
    )


def seen(receiver: Receiver, message_id: str, count: int) -> list[str]:
    wait(lambda: len(receiver.of(message_id)) >= count)
    return receiver.kinds(message_id)


def test_the_subscription_is_asked_for_signed_and_confirmed_first(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    assert sandbox.calls()["receipts_confirmed"]
    first = receiver.posts[0]
    assert first.headers["x-amz-sns-message-type"] == "SubscriptionConfirmation"
    assert first.envelope["TopicArn"] == TOPIC
    names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    verify(first.envelope, names)
    assert {post.envelope["Type"] for post in receiver.posts[1:]} <= {"Notification"}


def test_a_wrong_token_confirms_nothing(sandbox: Sandbox) -> None:
    answer = sandbox.get(f"/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=guessed")
    assert answer.status_code == 400


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_emails_receipts_are_signed_and_carry_its_tags(
    sandbox: Sandbox, receiver: Receiver, ses: Any, version: str
) -> None:
    sandbox.order(events={"signature_version": version})
    id = str(uuid4())
    message_id = ses.send_email(**email("someone@example.ca", id, attempt=7))["MessageId"]
    assert seen(receiver, message_id, 2) == ["Send", "Delivery"]
    for post in receiver.of(message_id):
        assert post.envelope["SignatureVersion"] == version
        verify(post.envelope, ["Message", "MessageId", "Timestamp", "TopicArn", "Type"])
        mail = post.event["mail"]
        assert mail["messageId"] == message_id
        assert mail["tags"]["courant_id"] == [id]
        assert mail["tags"]["courant_attempt"] == ["7"]
        assert mail["destination"] == ["someone@example.ca"]
        assert post.headers["x-amz-sns-message-id"] == post.envelope["MessageId"]
        assert post.headers["x-amz-sns-topic-arn"] == TOPIC
        assert post.headers["content-type"] == "text/plain; charset=UTF-8"
        assert post.headers["user-agent"] == "Amazon Simple Notification Service Agent"
        changed = post.envelope | {"Message": post.envelope["Message"] + "\n"}
        with pytest.raises(InvalidSignature):
            verify(changed, ["Message", "MessageId", "Timestamp", "TopicArn", "Type"])


# fmt: off
EMAILS = {
    "bounce": (["Send", "Bounce"], {"bounceType": "Permanent", "bounceSubType": "General"}),
    "soft-bounce": (["Send", "Bounce"], {"bounceType": "Transient"}),
    "suppressed": (["Send", "Bounce"], {"bounceType": "Permanent", "bounceSubType": "Suppressed"}),
    "complaint": (["Send", "Delivery", "Complaint"], {"complaintFeedbackType": "abuse"}),
    "delayed": (["Send", "DeliveryDelay", "Delivery"], {"smtpResponse": "250 2.0.0 OK"}),
    "virus": (["Send", "Reject"], {"reason": "Bad content"}),
    "double": (["Send", "Send", "Delivery", "Delivery"], {"smtpResponse": "250 2.0.0 OK"}),
}
# fmt: on


@pytest.mark.parametrize("local_part", EMAILS)
def test_an_address_orders_its_receipts(
    sandbox: Sandbox, receiver: Receiver, ses: Any, local_part: str
) -> None:
    kinds, told = EMAILS[local_part]
    sandbox.order(events={"delay_seconds": 0.2})
    message_id = ses.send_email(**email(f"{local_part}+{uuid4()}@example.ca"))["MessageId"]
    assert seen(receiver, message_id, len(kinds)) == kinds
    last = receiver.of(message_id)[-1].event
    parts = next(part for name, part in last.items() if name not in ("eventType", "mail"))
    assert told.items() <= parts.items()


def test_data_that_lacks_a_value_fails_at_rendering(
    sandbox: Sandbox, receiver: Receiver, ses: Any
) -> None:
    assert sandbox.calls()["receipts_confirmed"]
    call = bulk([("someone@example.ca", str(uuid4()))], {"s": "S", "t": "T"})
    message_id = ses.send_bulk_email(**call)["BulkEmailEntryResults"][0]["MessageId"]
    assert seen(receiver, message_id, 1) == ["Rendering Failure"]


@pytest.mark.parametrize(
    ("digits", "status", "description"),
    [
        ("0199", "DELIVERED", "accepted by phone"),
        ("0001", "UNREACHABLE", "Phone is currently unreachable/unavailable"),
        ("0002", "CARRIER_UNREACHABLE", "Phone carrier is currently unreachable/unavailable"),
        ("0003", "CARRIER_BLOCKED", "Phone carrier has blocked this message"),
        ("0014", "SPAM", "Blocked as spam by phone carrier"),
        ("0018", "TTL_EXPIRED", ""),
    ],
)
def test_a_text_messages_receipts_carry_its_context(
    sandbox: Sandbox, receiver: Receiver, sms: Any, digits: str, status: str, description: str
) -> None:
    sandbox.order(events={"delay_seconds": 0.2})
    id = str(uuid4())
    message_id = sms.send_text_message(**text(f"+1613555{digits}", id))["MessageId"]
    assert seen(receiver, message_id, 2) == ["TEXT_SENT", f"TEXT_{status}"]
    last = receiver.of(message_id)[-1].event
    assert last["context"] == {"courant_id": id, "courant_attempt": "2"}
    assert (last["messageStatus"], last["isFinal"]) == (status, True)
    assert description in last["messageStatusDescription"]


def test_a_success_may_be_final_and_still_be_followed(
    sandbox: Sandbox, receiver: Receiver, sms: Any
) -> None:
    sandbox.order(events={"delay_seconds": 0.2})
    message_id = sms.send_text_message(**text("+16135550013", "a"))["MessageId"]
    assert seen(receiver, message_id, 3) == ["TEXT_SENT", "TEXT_SUCCESSFUL", "TEXT_DELIVERED"]
    assert [post.event["isFinal"] for post in receiver.of(message_id)] == [False, True, True]


def test_receipts_are_of_the_ordered_kinds(sandbox: Sandbox, receiver: Receiver, ses: Any) -> None:
    sandbox.order(events={"kinds": ["Bounce", "TEXT_BLOCKED"], "double": True})
    message_id = ses.send_email(**email("someone@example.ca"))["MessageId"]
    assert seen(receiver, message_id, 2) == ["Bounce", "Bounce"]
    assert len({post.envelope["MessageId"] for post in receiver.of(message_id)}) == 2


def test_shuffled_receipts_come_out_of_order(
    sandbox: Sandbox, receiver: Receiver, ses: Any
) -> None:
    sandbox.order(events={"shuffle": True, "delay_seconds": 0.1})
    call = bulk([("someone@example.ca", str(n)) for n in range(30)])
    ids = [entry["MessageId"] for entry in ses.send_bulk_email(**call)["BulkEmailEntryResults"]]
    orders = {tuple(seen(receiver, message_id, 2)) for message_id in ids}
    assert orders == {("Send", "Delivery"), ("Delivery", "Send")}


def test_no_receipt_comes_of_never_of_dropped_and_of_sns(
    sandbox: Sandbox, receiver: Receiver, ses: Any
) -> None:
    never = ses.send_email(**email("never@example.ca"))["MessageId"]
    published = sandbox.client("sns").publish(PhoneNumber="+16135550199", Message="A")["MessageId"]
    sandbox.order(events={"drop_share": 1})
    dropped = ses.send_email(**email("someone@example.ca"))["MessageId"]
    sandbox.order(events=None)
    last = ses.send_email(**email("someone@example.ca"))["MessageId"]
    seen(receiver, last, 2)
    assert [len(receiver.of(id)) for id in (never, published, dropped)] == [0, 0, 0]


def test_a_5xx_is_retried_with_the_same_bytes_and_a_4xx_is_not(
    sandbox: Sandbox, receiver: Receiver, ses: Any
) -> None:
    receiver.status = 503
    message_id = ses.send_email(**email("someone@example.ca"))["MessageId"]
    wait(lambda: len(receiver.of(message_id)) >= 4)
    receiver.status = 200

    def taken() -> bool:
        waiting = sandbox.get("/metrics").text
        return "courant_sandbox_receipts_waiting 0.0" in waiting

    wait(taken)
    sends = [post for post in receiver.of(message_id) if post.event["eventType"] == "Send"]
    assert len(sends) >= 2
    assert len({json.dumps(post.envelope) for post in sends}) == 1
    receiver.status = 403
    refused = ses.send_email(**email("someone@example.ca"))["MessageId"]
    seen(receiver, refused, 2)
    wait(taken)
    assert len(receiver.of(refused)) == 2


def test_connections_are_kept_open(sandbox: Sandbox, receiver: Receiver, ses: Any) -> None:
    assert sandbox.calls()["receipts_confirmed"]
    before = receiver.connections
    call = bulk([("someone@example.ca", str(n)) for n in range(40)])
    ids = [entry["MessageId"] for entry in ses.send_bulk_email(**call)["BulkEmailEntryResults"]]
    for message_id in ids:
        seen(receiver, message_id, 2)
    # 80 posts; whoever has 8 connections may open those that it did not need until now.
    assert receiver.connections - before <= 8


def test_a_share_of_the_messages_has_receipts(tmp_path: Path, receiver: Receiver) -> None:
    with running(tmp_path, SANDBOX_RECEIPTS_URL=receiver.url, SANDBOX_RECEIPTS_SHARE="0.5") as half:
        wait(lambda: half.calls()["receipts_confirmed"])
        call = bulk([("someone@example.ca", str(n)) for n in range(50)])
        answer = half.client("sesv2").send_bulk_email(**call)
        ids = [entry["MessageId"] for entry in answer["BulkEmailEntryResults"]]
        wait(lambda: "receipts_waiting 0.0" in half.get("/metrics").text)
        told = [len(receiver.of(id)) for id in ids]
    assert set(told) == {0, 2}


def test_nothing_is_told_before_the_confirmation(tmp_path: Path) -> None:
    strange = Receiver()
    strange.confirms = False
    with running(tmp_path, SANDBOX_RECEIPTS_URL=strange.url) as sandbox:
        message_id = sandbox.client("sesv2").send_email(**email("a@example.ca"))["MessageId"]
        first = wait(lambda: strange.posts and strange.posts[0])
        wait(lambda: len(strange.posts) >= 2)
        assert strange.of(message_id) == []
        httpx2.get(first.envelope["SubscribeURL"], timeout=ANSWER_SECONDS).raise_for_status()
        assert seen(strange, message_id, 2) == ["Send", "Delivery"]
    strange.close()


def test_a_killed_sandbox_keeps_its_ledger_its_key_and_what_it_has_to_tell(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.confirms = False
    with running(tmp_path, SANDBOX_RECEIPTS_URL=receiver.url) as sandbox:
        ses = sandbox.client("sesv2")
        ids = [str(uuid4()) for _ in range(60)]
        told: dict[str, str] = {}
        for id in ids[:10]:
            told[id] = ses.send_email(**email("bounce@example.ca", id))["MessageId"]
        answer = ses.send_bulk_email(**bulk([("a@example.ca", id) for id in ids[10:]]))
        results = [entry["MessageId"] for entry in answer["BulkEmailEntryResults"]]
        told |= dict(zip(ids[10:], results, strict=True))
        before = sandbox.get("/ledger").text
        certificate = sandbox.get("/SimpleNotificationService-sandbox.pem").content
        sandbox.end(signal.SIGKILL)
        # The kill may strike in the middle of a line.
        with (tmp_path / "new" / "ledger.jsonl").open("ab") as file:
            file.write(b'{"at":"2026-')
        receiver.confirms = True
        sandbox.start()
        assert sandbox.get("/ledger").text == before
        assert {line["notification_id"]: line["message_id"] for line in sandbox.ledger()} == told
        assert len(sandbox.ledger(since=50)) == 10
        assert sandbox.calls()["ledger_lines"] == 60
        assert sandbox.get("/SimpleNotificationService-sandbox.pem").content == certificate
        assert "bounce@example.ca" in sandbox.get("/?page=2").text
        for message_id in told.values():
            seen(receiver, message_id, 2)
        assert receiver.kinds(told[ids[0]]) == ["Send", "Bounce"]
        # The next start posts no receipt again that was accepted.
        mark = tmp_path / "new" / "ledger.taken"
        size = (tmp_path / "new" / "ledger.jsonl").stat().st_size
        wait(lambda: mark.read_text().strip() == str(size))
        count = len(receiver.posts)
        sandbox.end(signal.SIGKILL)
        sandbox.start()
        wait(lambda: sandbox.calls()["receipts_confirmed"])
        last = sandbox.client("sesv2").send_email(**email("a@example.ca"))["MessageId"]
        seen(receiver, last, 2)
        again = [post.envelope["Message"] for post in receiver.posts[count:]]
        assert not [message for message in again if any(id in message for id in ids)]
    receiver.close()
