"""Receipts: only Amazon's signature and our topics are accepted, and each event is classified."""

import asyncio
import base64
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from courant import contracts
from courant.contracts import Heartbeat, Receipt, ReceiptKind, UnreadPost, UntaggedReceipt
from courant.crypto import keyed_hash
from courant.errors import Unavailable
from ingest.receipts import certificates, events
from ingest.receipts.certificates import CertificateStore, Fetcher, Missing
from ingest.receipts.events import Ignored, ReceiptDetails, Unread
from ingest.receipts.sns import Envelope, is_certificate_url
from support.ingest.world import HASH_KEY, RING, TOPIC_ARN, World, settings

PEM = "SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
SNS = "https://sns.ca-central-1.amazonaws.com"
CERTIFICATE = f"{SNS}/{PEM}"
ID = UUID("01930000-0000-7000-8000-000000000001")
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOW = datetime.now(UTC)
FORGED, UNAVAILABLE, ACCEPTED = 403, 503, 200


def certificate(days: int = 10) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=20))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def envelope(message: str, **more: str) -> dict[str, str]:
    """Sign as SNS does. The signed text is built here by hand, not by the product."""
    fields = {
        "Type": "Notification",
        "MessageId": "m-1",
        "TopicArn": TOPIC_ARN,
        "Message": message,
        "Timestamp": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE,
        **more,
    }
    text = f"Message\n{fields['Message']}\nMessageId\n{fields['MessageId']}\n"
    if fields["Type"] == "Notification":
        text += f"Subject\n{fields['Subject']}\n" if "Subject" in fields else ""
        text += f"Timestamp\n{fields['Timestamp']}\n"
    else:
        text += f"SubscribeURL\n{fields['SubscribeURL']}\nTimestamp\n{fields['Timestamp']}\n"
        text += f"Token\n{fields['Token']}\n"
    text += f"TopicArn\n{fields['TopicArn']}\nType\n{fields['Type']}\n"
    algorithm = hashes.SHA1() if fields["SignatureVersion"] == "1" else hashes.SHA256()
    signature = KEY.sign(text.encode(), padding.PKCS1v15(), algorithm)
    return {**fields, "Signature": base64.b64encode(signature).decode()}


def event(kind: str, tags: dict[str, list[str]] | None = None, **parts: object) -> str:
    tags = {"courant_id": [str(ID)], "courant_attempt": ["3"]} if tags is None else tags
    return json.dumps({"eventType": kind, "mail": {"messageId": "ses-1", "tags": tags}, **parts})


def post(world: World, content: dict[str, str] | bytes) -> int:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"content-type": "text/plain; charset=UTF-8", "authorization": ""}
    return world.call("POST", "/receipts", content=body, headers=headers).status_code


def world_with_certificate(**more: object) -> World:
    world = World(**more)
    world.fetched[CERTIFICATE] = certificate()
    return world


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_receipt_that_amazon_signed_becomes_a_record(version: str) -> None:
    world = world_with_certificate()
    signed = envelope(event("Delivery") + "\n", SignatureVersion=version, Subject="s")
    assert post(world, signed) == ACCEPTED
    [record] = world.log.records
    receipt = contracts.decode_receipt(record.value)
    assert isinstance(receipt, Receipt)
    assert (record.topic, record.key, receipt.id, receipt.attempt) == ("receipts", ID.bytes, ID, 3)
    assert (receipt.says, receipt.message_id) == (ReceiptKind.DELIVERED, "ses-1")
    assert (receipt.happened_at, receipt.sns_id) == (NOW.replace(microsecond=0), "m-1")
    assert RING.decrypt(receipt.sealed, owner=ID.bytes).decode() == signed["Message"]


def test_the_certificate_is_fetched_once() -> None:
    world = world_with_certificate()

    async def crowd() -> None:
        async with world.client() as client:
            body = json.dumps(envelope(event("Send")))
            await asyncio.gather(*(client.post("/receipts", content=body) for _ in range(5)))

    asyncio.run(crowd())
    assert world.fetches == [CERTIFICATE]
    assert len(world.log.records) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"Message": event("Bounce")},
        {"Subject": "added"},
        {"Timestamp": "2026-01-01T00:00:00.000Z"},
        {"Signature": "AAAA"},
        {"Signature": "é"},
        {"SignatureVersion": "1"},
        {"SignatureVersion": "3"},
        {"TopicArn": "arn:aws:sns:ca-central-1:999999999999:other"},
        {"Timestamp": "yesterday"},
        {"Timestamp": "2026-01-01T00:00:00"},
    ],
)
def test_a_changed_envelope_is_forged(changed: dict[str, str]) -> None:
    world = world_with_certificate()
    assert post(world, {**envelope(event("Delivery")), **changed}) == FORGED
    assert world.log.records == []


def test_an_envelope_of_another_topic_is_forged_and_fetches_nothing() -> None:
    world = world_with_certificate()
    other = "arn:aws:sns:ca-central-1:999999999999:other"
    assert post(world, envelope(event("Delivery"), TopicArn=other)) == FORGED
    assert world.fetches == []


def test_a_body_that_is_no_envelope_is_forged() -> None:
    world = world_with_certificate()
    for body in (b"", b"[]", b"\xff", b'{"Type": "Notification"}', event("Send").encode()):
        assert post(world, body) == FORGED


HOSTILE = [
    f"http://sns.ca-central-1.amazonaws.com/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com.evil.example/{PEM}",
    f"https://evil.example/sns.ca-central-1.amazonaws.com/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com@evil.example/{PEM}",
    f"https://user@sns.ca-central-1.amazonaws.com/{PEM}",
    f"https://evil.example#sns.ca-central-1.amazonaws.com/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com:8443/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com:99999/{PEM}",
    f"https://sns.us-east-1.amazonaws.com/{PEM}",
    f"https://s3.ca-central-1.amazonaws.com/{PEM}",
    f"https://evilsns.ca-central-1.amazonaws.com/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com/{PEM}?x=1",
    f"https://sns.ca-central-1.amazonaws.com/{PEM}#x",
    f"https://sns.ca-central-1.amazonaws.com/a/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com/../{PEM}",
    f"{SNS}/{PEM.removesuffix('.pem')}.txt",
    f"https://sns.ca-central-1.amazonaws.com\\@evil.example/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com /{PEM}",
    f"HTTPS://SNS.CA-CENTRAL-1.AMAZONAWS.COM/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com\n/{PEM}",
    f"https://sns.ca-central-1.amazonaws.com/%0{PEM}",
    f"https://sns.ca-central-1.amazonawsxcom/{PEM}",
    f"https://[::1]/{PEM}",
    f"file:///etc/{PEM}",
    "",
    # Not the name of a certificate of SNS.
    f"{SNS}/a.pem",
    f"{SNS}/SimpleNotificationService-sandbox.pem",
    f"{SNS}/SimpleNotificationService-{'0' * 31}.pem",
    f"{SNS}/SimpleNotificationService-{'0' * 33}.pem",
    f"{SNS}/SimpleNotificationService-{'A' * 32}.pem",
    f"{SNS}/x{PEM}",
    f"{SNS}/{PEM}.pem",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_certificate_that_is_not_on_the_sns_host_is_never_fetched(url: str) -> None:
    world = world_with_certificate()
    assert post(world, envelope(event("Delivery"), SigningCertURL=url)) == FORGED
    assert world.fetches == []


def test_a_certificate_url_may_name_port_443() -> None:
    assert is_certificate_url(f"{SNS}:443/{PEM}", TOPIC_ARN)
    china = "arn:aws-cn:sns:cn-north-1:123456789012:t"
    assert is_certificate_url(f"https://sns.cn-north-1.amazonaws.com.cn/{PEM}", china)


@given(st.text())
def test_no_url_makes_the_check_raise(url: str) -> None:
    assert is_certificate_url(url, TOPIC_ARN) in (True, False)
    assert not is_certificate_url(CERTIFICATE, url)


def test_sns_is_asked_to_retry_while_a_dependency_is_unavailable() -> None:
    signed = envelope(event("Delivery"))
    assert post(World(), signed) == UNAVAILABLE  # the certificate cannot be fetched
    for unusable in (b"no certificate", certificate(days=-1)):
        world = World()
        world.fetched[CERTIFICATE] = unusable
        assert post(world, signed) == UNAVAILABLE
        assert post(world, signed) == UNAVAILABLE
        assert world.fetches == [CERTIFICATE]  # not again within a minute
    world = world_with_certificate()
    assert post(world, signed) == ACCEPTED
    world.log.stand_still(deadline_seconds=0)
    assert post(world, signed) == UNAVAILABLE


def at(ago: timedelta) -> str:
    return (NOW - ago).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.mark.parametrize("ago", [timedelta(hours=2), timedelta(days=14), timedelta(days=22.9)])
def test_a_receipt_is_taken_for_as_long_as_sns_may_deliver_it(ago: timedelta) -> None:
    world = world_with_certificate()
    assert post(world, envelope(event("Delivery"), Timestamp=at(ago))) == ACCEPTED
    assert len(world.log.records) == 1


def test_a_replay_of_a_message_that_sns_no_longer_delivers_is_refused() -> None:
    world = world_with_certificate()
    old = envelope(event("Delivery"), Timestamp=at(timedelta(days=23, minutes=1)))
    assert post(world, old) == FORGED
    assert (world.log.records, world.fetches) == ([], [])


def troubles(world: World) -> list[str | None]:
    """Return why receipts were put off, as `receipts` has it, and None for each heartbeat."""
    read = [contracts.decode_receipt(record.value) for record in world.log.records]
    return [each.trouble for each in read if isinstance(each, Heartbeat)]


def beat(world: World) -> int:
    body = msgspec.json.encode({"at": NOW})
    signature = keyed_hash(HASH_KEY.encode(), b"heartbeat", body).hex()
    headers = {"x-courant-signature": signature, "authorization": ""}
    return world.call("POST", "/receipts/heartbeat", content=body, headers=headers).status_code


def test_a_receipt_that_cannot_be_verified_is_put_off_and_that_is_written() -> None:
    world = World()
    for _ in range(3):  # at most one record a second
        assert post(world, envelope(event("Delivery"))) == UNAVAILABLE
    assert troubles(world) == ["fetching: HTTP 404"]
    assert world.log.records[0].topic == "receipts"


def test_a_receipt_from_the_future_is_put_off_because_our_clock_is_behind() -> None:
    world = world_with_certificate()
    assert post(world, envelope(event("Send"))) == ACCEPTED
    ahead = at(-timedelta(minutes=9))
    assert post(world, envelope(event("Send"), Timestamp=ahead)) == UNAVAILABLE
    assert troubles(world) == ["a verified timestamp is in the future: is this host's clock right?"]
    # Without a valid signature it proves nothing.
    forged = {**envelope(event("Send"), Timestamp=ahead), "Signature": "AAAA"}
    assert post(world, forged) == FORGED


def test_a_forged_certificate_is_no_trouble_while_genuine_receipts_come() -> None:
    world = world_with_certificate()
    unknown = CERTIFICATE.replace("0123", "3210")
    assert post(world, envelope(event("Send"))) == ACCEPTED
    assert post(world, envelope(event("Send"), SigningCertURL=unknown)) == UNAVAILABLE
    assert troubles(world) == []


def test_a_receipt_that_kafka_does_not_take_is_written_with_the_next_heartbeat() -> None:
    world = world_with_certificate()
    world.log.stand_still(deadline_seconds=0)
    assert post(world, envelope(event("Send"))) == UNAVAILABLE
    assert beat(world) == UNAVAILABLE
    world.log.go_on()
    world.log.records.clear()
    world.log.waiting.clear()
    assert beat(world) == ACCEPTED
    assert beat(world) == ACCEPTED
    assert troubles(world) == ["Kafka did not acknowledge a receipt", None, None]


def test_a_receipt_that_finds_no_room_is_written() -> None:
    world = World()
    world.app.budget.in_use_bytes = 80 * 1024 * 1024
    assert post(world, envelope(event("Send"))) == UNAVAILABLE
    world.app.budget.in_use_bytes = 0
    assert troubles(world) == ["there was no room for its body"]


def test_a_subscription_is_confirmed_only_on_the_sns_host() -> None:
    world = world_with_certificate()
    url = "https://sns.ca-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    world.fetched[url] = b"ok"
    for confirm, status in [(url, ACCEPTED), ("https://evil.example/?Token=t", FORGED)]:
        signed = envelope("m", Type="SubscriptionConfirmation", SubscribeURL=confirm, Token="t")
        assert post(world, signed) == status
    assert world.fetches == [CERTIFICATE, url]
    assert world.log.records == []


def test_a_sandbox_is_trusted_only_if_it_is_set_and_never_in_production() -> None:
    url = "http://127.0.0.1:8480/c.pem"
    signed = envelope(event("Delivery"), SigningCertURL=url)
    world = World(receipts_trusted_cert_prefix="http://127.0.0.1:8480")
    world.fetched[url] = certificate()
    assert post(world, signed) == ACCEPTED
    assert post(world_with_certificate(), signed) == FORGED
    evil = "http://127.0.0.1:8480.evil.example/c.pem"
    assert post(world, envelope(event("Send"), SigningCertURL=evil)) == FORGED
    with pytest.raises(ValidationError, match="not for production"):
        settings(courant_environment="production", receipts_trusted_cert_prefix="http://x/")


BOUNCES = [
    ("Permanent", "General", ReceiptKind.BOUNCED, "hard-bounce/general", None),
    ("Permanent", "NoEmail", ReceiptKind.BOUNCED, "hard-bounce/no-email", None),
    ("Permanent", "Suppressed", ReceiptKind.BOUNCED, "hard-bounce/suppressed",
     "The email address is on our email provider suppression list"),
    ("Permanent", "OnAccountSuppressionList", ReceiptKind.BOUNCED,
     "hard-bounce/on-account-suppression-list",
     "The email address is on the GC Notify suppression list"),
    ("Permanent", "New", ReceiptKind.BOUNCED, "hard-bounce/unknown-bounce-subtype", None),
    ("Transient", "MailboxFull", ReceiptKind.DELAYED, "soft-bounce/mailbox-full", None),
    ("Transient", "MessageTooLarge", ReceiptKind.DELAYED, "soft-bounce/message-too-large", None),
    ("Transient", "AttachmentRejected", ReceiptKind.DELAYED, "soft-bounce/attachment-rejected",
     "The email was rejected because of its attachments"),
    ("Transient", "CustomTimeoutExceeded", ReceiptKind.DELAYED,
     "soft-bounce/unknown-bounce-subtype", None),
    ("Undetermined", "Undetermined", ReceiptKind.DELAYED, "soft-bounce/general", None),
    ("Newer", "x", ReceiptKind.DELAYED, "unknown-bounce/unknown-bounce-subtype", None),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "subtype", "says", "reason", "response"), BOUNCES)
def test_a_bounce_is_classified_by_its_type_and_subtype(
    type_: str, subtype: str, says: ReceiptKind, reason: str, response: str | None
) -> None:
    bounce = {"bounceType": type_, "bounceSubType": subtype, "bouncedRecipients": []}
    assert events.read_event(event("Bounce", bounce=bounce), NOW) == ReceiptDetails(
        ID, 3, says, "ses-1", reason, response, NOW
    )


AT = datetime(2026, 5, 6, 12, 0, 0, 250_000, UTC)
OWN = {"timestamp": "2026-05-06T12:00:00.250Z"}


@pytest.mark.parametrize(
    ("message", "at"),
    [
        (event("Delivery", delivery=OWN), AT),
        (event("Bounce", bounce=OWN), AT),
        (event("Complaint", complaint=OWN), AT),
        (json.dumps(json.loads(event("Send")) | {"mail": json.loads(event("Send"))["mail"] | OWN}),
         AT),
        (event("Delivery", delivery={"timestamp": "2026-05-06T14:00:00.250+02:00"}), AT),
        # Without a usable time of its own, an event counts from when SNS wrote the post.
        (event("Delivery"), NOW),
        (event("Delivery", delivery={"timestamp": "soon"}), NOW),
        (event("Delivery", delivery={"timestamp": [1]}), NOW),
        (event("Delivery", delivery={"timestamp": "0001-01-01T00:00:00+14:00"}), NOW),
        (event("Delivery", delivery={"timestamp": "9999-12-31T00:00:00Z"}), NOW),
    ],
)  # fmt: skip
def test_a_receipt_has_the_time_of_its_event(message: str, at: datetime) -> None:
    details = events.read_event(message, NOW)
    assert isinstance(details, ReceiptDetails)
    assert details.happened_at == at


SOFT = {"bounceType": "Transient", "bounceSubType": "General"}


@pytest.mark.parametrize(
    ("bounce", "fails", "weak"),
    [
        (SOFT, False, True),
        (SOFT | {"bouncedRecipients": [{"emailAddress": "a@example.ca"}]}, False, True),
        (SOFT, True, False),
        (SOFT | {"bouncedRecipients": [{"action": "failed"}]}, False, False),
        (SOFT | {"bounceSubType": "MailboxFull"}, False, False),
        (SOFT | {"bounceType": "Permanent"}, False, False),
    ],
)
def test_an_auto_reply_is_weak_only_if_the_setting_says_so(
    bounce: dict[str, object], fails: bool, weak: bool
) -> None:
    world = world_with_certificate(receipts_auto_replies_fail=fails)
    assert post(world, envelope(event("Bounce", bounce=bounce))) == ACCEPTED
    receipt = contracts.decode_receipt(world.log.records[0].value)
    assert isinstance(receipt, Receipt)
    assert (receipt.says, receipt.weak) == (
        ReceiptKind.BOUNCED if bounce["bounceType"] == "Permanent" else ReceiptKind.DELAYED,
        weak,
    )


def test_an_auto_reply_fails_an_email_by_default_as_the_contract_says() -> None:
    assert settings().receipts_auto_replies_fail


def test_the_other_events_of_ses_are_classified_by_their_type() -> None:
    listed = {"complaintSubType": "OnAccountSuppressionList"}
    for kind, parts, says in [
        ("Send", {"send": {}}, ReceiptKind.SENT),
        ("Complaint", {"complaint": {"complaintSubType": None}}, ReceiptKind.COMPLAINED),
        ("Complaint", {"complaint": listed}, ReceiptKind.BOUNCED),
        ("Reject", {"reject": {"reason": "Bad content"}}, ReceiptKind.BOUNCED),
        ("Rendering Failure", {"failure": {"errorMessage": "x"}}, ReceiptKind.BOUNCED),
    ]:
        details = events.read_event(event(kind, **parts), NOW)  # type: ignore[arg-type]
        assert isinstance(details, ReceiptDetails)
        assert details.kind is says, kind


@pytest.mark.parametrize(
    "message",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        '{"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have"}',
        event("DeliveryDelay", deliveryDelay={}),
        event("Open"),
    ],
)
def test_an_event_that_matters_to_nobody_is_answered_200_and_not_stored(message: str) -> None:
    world = world_with_certificate()
    assert post(world, envelope(message)) == ACCEPTED
    assert world.log.records == []


SNS_TEXT = {
    "notification": {"messageId": "sms-1", "timestamp": "2026-05-06 12:00:00.250"},
    "delivery": {"providerResponse": "Phone carrier has blocked this message"},
    "status": "FAILURE",
}


@pytest.mark.parametrize(
    ("message", "message_id", "says"),
    [
        (event("Send", tags={}), "ses-1", ReceiptKind.SENT),
        (event("Send", tags={"courant_id": ["x"], "courant_attempt": ["1"]}), "ses-1",
         ReceiptKind.SENT),
        (event("Send", tags={"courant_id": [str(ID)], "courant_attempt": ["0"]}), "ses-1",
         ReceiptKind.SENT),
        (event("Delivery", tags={"courant_id": [], "courant_attempt": ["1"]}), "ses-1",
         ReceiptKind.DELIVERED),
        ('{"notificationType": "Bounce", "mail": {"messageId": "m"}, "bounce": {}}', "m",
         ReceiptKind.DELAYED),
        (json.dumps(SNS_TEXT), "sms-1", ReceiptKind.DELAYED),
        (json.dumps(SNS_TEXT | {"status": "SUCCESS"}), "sms-1", ReceiptKind.DELIVERED),
    ],
)  # fmt: skip
def test_a_receipt_without_our_tags_is_stored_under_the_providers_id(
    message: str, message_id: str, says: ReceiptKind
) -> None:
    world = world_with_certificate()
    assert post(world, envelope(message)) == ACCEPTED
    [record] = world.log.records
    receipt = contracts.decode_receipt(record.value)
    assert isinstance(receipt, UntaggedReceipt)
    assert (record.topic, record.key) == ("receipts", message_id.encode())
    assert (receipt.message_id, receipt.says, receipt.sns_id) == (message_id, says, "m-1")
    assert RING.decrypt(receipt.sealed, owner=record.key).decode() == message
    assert receipt.happened_at == (AT if "sms" in message_id else NOW.replace(microsecond=0))


INBOUND = {"originationNumber": "+16135550199", "inboundMessageId": "i-1", "messageBody": "STOP"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (json.dumps(INBOUND), "inbound SMS are not supported yet"),
        (event("Newer"), "not an event that is known"),
        ("{}", "not an event that is known"),
        ("[]", "not an event that can be read"),
        ("a plain text", "not an event that can be read"),
        (json.dumps({"eventType": "Bounce", "mail": {"messageId": 7}}),
         "not an event that can be read"),
    ],
)  # fmt: skip
def test_a_genuine_post_that_nothing_can_use_yet_is_kept_as_it_came(
    message: str, reason: str
) -> None:
    world = world_with_certificate()
    signed = envelope(message)
    assert post(world, signed) == ACCEPTED
    [record] = world.log.records
    kept = contracts.decode_receipt(record.value)
    assert isinstance(kept, UnreadPost)
    assert (kept.sns_id, kept.reason) == ("m-1", reason)
    assert b"6135550199" not in record.value
    assert json.loads(RING.decrypt(kept.sealed, owner=b"m-1")) == signed


def test_the_end_of_a_subscription_is_kept() -> None:
    world = world_with_certificate()
    signed = envelope("m", Type="UnsubscribeConfirmation", SubscribeURL="u", Token="t")
    assert post(world, signed) == ACCEPTED
    assert isinstance(contracts.decode_receipt(world.log.records[0].value), UnreadPost)


def test_sns_is_asked_to_retry_a_post_that_cannot_be_kept() -> None:
    world = world_with_certificate()
    world.log.stand_still(deadline_seconds=0)
    for message in (json.dumps(INBOUND), event("Send", tags={})):
        assert post(world, envelope(message)) == UNAVAILABLE


NAMES = st.sampled_from(["mail", "tags", "bounce", "messageId", "eventType"])
SHAPES = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)
)


@given(st.text() | SHAPES.map(json.dumps))
def test_no_message_makes_the_reader_raise(message: str) -> None:
    assert isinstance(events.read_event(message, NOW), ReceiptDetails | Ignored | Unread)


def text_event(status: str, words: str = "", final: bool = True) -> str:
    context = {"courant_id": str(ID), "courant_attempt": "1"}
    fields: dict[str, Any] = {"eventType": f"TEXT_{status}", "messageId": "t-1", "isFinal": final}
    fields |= {"messageStatus": status, "messageStatusDescription": words, "context": context}
    fields["eventTimestamp"] = int(AT.timestamp() * 1000)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("status", "words", "final", "says"),
    [
        ("QUEUED", "Message is queued", False, ReceiptKind.SENT),
        ("SENT", "", False, ReceiptKind.SENT),
        ("PENDING", "", False, ReceiptKind.SENT),
        ("SUCCESSFUL", "Message has been accepted by phone carrier", False, ReceiptKind.SENT),
        ("SUCCESSFUL", "Message has been accepted by phone carrier", True, ReceiptKind.DELIVERED),
        ("DELIVERED", "Message has been accepted by phone", True, ReceiptKind.DELIVERED),
        ("SPAM", "Blocked as spam by phone carrier", True, ReceiptKind.BOUNCED),
        ("PROTECT_BLOCKED", "Destination is on a blocked list", True, ReceiptKind.BOUNCED),
        ("CARRIER_BLOCKED", "Phone carrier has blocked this message", True, ReceiptKind.DELAYED),
        ("BLOCKED", "Phone has blocked SMS", True, ReceiptKind.DELAYED),
        ("INVALID", "Invalid phone number", True, ReceiptKind.BOUNCED),
        ("BLOCKED", "Phone number is opted out", True, ReceiptKind.OPTED_OUT),
        ("UNKNOWN", "Unknown error attempting to reach phone", True, ReceiptKind.BOUNCED),
        ("BLOCKED", "This delivery would exceed max price", True, ReceiptKind.DELAYED),
        ("CARRIER_UNREACHABLE", "Phone carrier is currently unreachable/unavailable", True,
         ReceiptKind.DELAYED),
        ("UNREACHABLE", "Phone is currently unreachable/unavailable", True, ReceiptKind.BOUNCED),
        ("TTL_EXPIRED", "something new", True, ReceiptKind.BOUNCED),
    ],
)  # fmt: skip
def test_an_sms_event_is_classified_by_its_status_or_description(
    status: str, words: str, final: bool, says: ReceiptKind
) -> None:
    details = events.read_event(text_event(status, words, final), NOW)
    assert isinstance(details, ReceiptDetails)
    assert (details.kind, details.message_id) == (says, "t-1")
    assert details.response == (None if says is ReceiptKind.SENT else words)
    assert details.happened_at == AT


def test_a_heartbeat_is_accepted_only_with_the_keys_signature() -> None:
    world = World()
    body = msgspec.json.encode({"at": NOW})
    signature = keyed_hash(HASH_KEY.encode(), b"heartbeat", body).hex()

    def posted(content: bytes, signed: str | bytes) -> int:
        headers = {"x-courant-signature": signed, "authorization": ""}
        answer = world.call("POST", "/receipts/heartbeat", content=content, headers=headers)
        return answer.status_code

    assert posted(body, signature) == ACCEPTED
    assert posted(body + b" ", signature) == FORGED
    assert posted(body, "é".encode()) == FORGED
    nothing = keyed_hash(HASH_KEY.encode(), b"heartbeat", b"[]").hex()
    assert posted(b"[]", nothing) == 400
    [record] = world.log.records
    assert contracts.decode_receipt(record.value) == Heartbeat(at=NOW)


class Gate:
    """A fetch that answers when the test opens it, and counts what it was asked for."""

    def __init__(self, content: bytes | Exception) -> None:
        self.content, self.open = content, asyncio.Event()
        self.asked: list[str] = []

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        await self.open.wait()
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def urls(count: int) -> list[str]:
    return [f"{SNS}/SimpleNotificationService-{number:032x}.pem" for number in range(count)]


async def reason(store: CertificateStore, url: str) -> str | None:
    """Return why the store has no certificate for a URL, or None if it has."""
    try:
        await store.get(url, NOW)
    except Unavailable as error:
        return str(error)
    return None


def test_few_certificates_are_awaited_at_once_and_each_is_fetched_once() -> None:
    async def scene() -> None:
        gate = Gate(certificate())
        store = CertificateStore(gate)
        twice = [asyncio.create_task(reason(store, url)) for url in urls(40) * 2]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(*twice)
        assert gate.asked == urls(certificates.WAITING_MAX)
        assert Counter(answers) == {None: 16, "too many certificates are being fetched": 64}

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fault", "seconds"), [(Missing("HTTP 404"), 60), (Unavailable("ConnectError"), 5)]
)
def test_a_certificate_that_cannot_be_fetched_is_not_asked_for_again_at_once(
    fault: Exception, seconds: int
) -> None:
    gate, now = Gate(fault), [100.0]
    gate.open.set()

    async def scene() -> None:
        store = CertificateStore(gate, lambda: now[0])
        for number in range(2 * certificates.REFUSED_MAX):  # the list of failures stays short
            assert await reason(store, f"{number}") == str(fault)
        assert await reason(store, CERTIFICATE) == str(fault)
        asked = len(gate.asked)
        now[0] += seconds - 0.1
        assert await reason(store, CERTIFICATE) == str(fault)
        assert len(gate.asked) == asked
        gate.content = certificate()
        now[0] += 0.2
        assert await reason(store, CERTIFICATE) is None
        assert len(store._refused) <= certificates.REFUSED_MAX

    asyncio.run(scene())


def test_certificates_that_prove_nothing_never_displace_one_that_did() -> None:
    gate = Gate(certificate())
    gate.open.set()

    async def scene() -> None:
        store = CertificateStore(gate)
        await store.get(CERTIFICATE, NOW)
        store.prove(CERTIFICATE)
        for url in urls(500):
            await store.get(url, NOW)
        asked = len(gate.asked)
        await store.get(CERTIFICATE, NOW)
        assert len(gate.asked) == asked
        assert len(store._unproven) == certificates.UNPROVEN_MAX

    asyncio.run(scene())


def test_a_forged_signature_proves_no_certificate() -> None:
    world = world_with_certificate()
    assert post(world, {**envelope(event("Send")), "Signature": "AAAA"}) == FORGED
    for url in urls(certificates.UNPROVEN_MAX):
        world.fetched[url] = certificate()
        assert post(world, {**envelope(event("Send")), "SigningCertURL": url}) == ACCEPTED
    assert post(world, envelope(event("Send"))) == ACCEPTED
    assert world.fetches.count(CERTIFICATE) == 1


def test_all_fetches_share_one_client_and_two_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clients, running, most = [], [0], [0]

    def new_client() -> object:
        assert threading.current_thread() is not threading.main_thread()  # TLS takes 20 ms
        clients.append(object())
        return clients[-1]

    async def fetched(client: object, _: str) -> bytes:
        assert client is clients[0]
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.001)
        running[0] -= 1
        return b""

    monkeypatch.setattr(certificates, "new_client", new_client)
    monkeypatch.setattr(certificates, "fetched", fetched)

    async def scene() -> None:
        fetcher = Fetcher()
        await asyncio.gather(*map(fetcher.fetch, urls(40)))

    asyncio.run(scene())
    assert (len(clients), most[0]) == (1, certificates.FETCHES_MAX)


def test_an_envelope_is_read_by_the_field_names_of_sns() -> None:
    signed = msgspec.json.decode(json.dumps(envelope("m")), type=Envelope)
    assert signed.signing_cert_url == CERTIFICATE
