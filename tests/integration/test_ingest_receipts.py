"""Receipts as SNS posts them, through a real ingest, broker, saver and PostgreSQL."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from courant.contracts import AttemptOutcome, Outcome, Outcomes
from courant.kafka.producer import KafkaProducer
from courant.kafka.reader import TopicReader, read_to_end
from courant.records import Outgoing
from courant.topics import DEAD_PARTITIONS, DELIVERY, RECEIPTS, dead
from courant_sandbox.signing import Signer
from courant_sandbox.sns import Post, Topic
from integration.ingest_stack import Stack, stack
from support.ingest.world import TOPIC_ARN, api_key, email
from support.waiting import ANSWER_SECONDS, wait

AUTHORIZED = {"authorization": f"ApiKey-v1 {api_key(1)}"}
NOON = datetime(2026, 5, 6, 12, tzinfo=UTC)
SOFT = {"bounceType": "Transient", "bounceSubType": "MailboxFull"}
AUTO_REPLY = {"bounceType": "Transient", "bounceSubType": "General"}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"), datetime.now(UTC))


@pytest.fixture(scope="module")
def address(signer: Signer) -> Iterator[str]:
    """The address at which the certificate can be fetched."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(signer.certificate)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def running(address: str) -> Iterator[Stack]:
    with stack(RECEIPTS_TRUSTED_CERT_PREFIX=address, RECEIPTS_AUTO_REPLIES_FAIL="false") as started:
        yield started


@pytest.fixture(scope="module")
def sns(signer: Signer, address: str) -> Topic:
    return Topic(TOPIC_ARN, address, signer, lambda: datetime.now(UTC))


def accept(running: Stack, message_id: str = "") -> str:
    """Have a notification accepted, stored and sent; return its id."""
    url = f"{running.base}/v2/notifications/email"
    answer = httpx2.post(url, json=email(), headers=AUTHORIZED, timeout=ANSWER_SECONDS)
    id = str(answer.json()["id"])
    wait(lambda: state(running, id) == "created")
    if message_id:
        sent(running, id, message_id)
    return id


def sent(running: Stack, id: str, message_id: str) -> None:
    """Report that a provider accepted it under this id."""
    accepted = AttemptOutcome(
        id=UUID(id), attempt=1, outcome=Outcome.ACCEPTED, message_id=message_id
    )
    record = Outcomes(call=uuid4(), answers=(accepted,))
    producer = KafkaProducer(running.cluster, "tests")
    producer.produce(Outgoing(DELIVERY.name, record.call.bytes, record.encode()))
    producer.flush()
    wait(lambda: state(running, id) == "sending")


def state(running: Stack, id: str) -> str:
    rows = running.sql("SELECT state FROM notifications WHERE id = %s", id)
    return str(rows[0][0]) if rows else ""


def timeline(running: Stack, id: str) -> list[tuple[Any, ...]]:
    sql = """SELECT move, made, extract(minute FROM happened_at)::int FROM events
        WHERE id = %s AND happened_at IS NOT NULL ORDER BY number"""
    return running.sql(sql, id)


def event(kind: str, minute: int, id: str = "", message_id: str = "m", **part: object) -> str:
    """Write an event that happened at a minute after noon, with our tags if it has an id."""
    at = (NOON + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    mail: dict[str, object] = {"messageId": message_id, "timestamp": at}
    if id:
        mail["tags"] = {"courant_id": [id], "courant_attempt": ["1"]}
    name = "eventType" if id else "notificationType"
    return json.dumps({name: kind, "mail": mail, kind.lower(): {"timestamp": at, **part}})


def post(running: Stack, *posts: Post) -> None:
    for each in posts:
        url = f"{running.base}/receipts"
        headers = each.headers
        answer = httpx2.post(url, content=each.body, headers=headers, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text


def test_a_delivery_before_a_soft_bounce_does_not_undo_it(running: Stack, sns: Topic) -> None:
    id = accept(running)
    bounce = sns.notification(event("Bounce", 2, id, **SOFT), "2")
    delivery = sns.notification(event("Delivery", 1, id), "2")
    post(running, bounce)
    wait(lambda: state(running, id) == "temporary-failure")
    post(running, delivery)
    wait(lambda: len(timeline(running, id)) == 2)
    assert state(running, id) == "temporary-failure"
    assert timeline(running, id) == [("delayed", True, 2), ("delivered", False, 1)]


def test_a_post_that_is_repeated_counts_once(running: Stack, sns: Topic) -> None:
    id = accept(running)
    delivery = sns.notification(event("Delivery", 1, id), "2")
    bounce = sns.notification(event("Bounce", 2, id, **SOFT), "2")
    other_subscription = sns.notification(event("Delivery", 1, id), "2")
    last = sns.notification(event("Complaint", 3, id), "2")
    for each in (delivery, bounce, delivery, other_subscription, last):
        post(running, each)
    wait(lambda: ("complained", True, 3) in timeline(running, id))
    assert state(running, id) == "temporary-failure"
    assert timeline(running, id) == [
        ("delivered", True, 1),
        ("delayed", True, 2),
        ("complained", True, 3),
    ]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_an_auto_reply_after_a_delivery_is_an_event(
    running: Stack, sns: Topic, order: tuple[int, ...]
) -> None:
    id = accept(running)
    posts = [
        sns.notification(event("Delivery", 1, id), "2"),
        sns.notification(event("Bounce", 2, id, **AUTO_REPLY), "2"),
    ]
    post(running, *(posts[number] for number in order))
    wait(lambda: len(timeline(running, id)) == 2)
    assert state(running, id) == "delivered"


def test_a_receipt_without_tags_is_found_by_the_providers_id(running: Stack, sns: Topic) -> None:
    message_id = f"ses-{uuid4()}"
    id = accept(running, message_id)
    post(running, sns.notification(event("Bounce", 2, message_id=message_id, **SOFT), "2"))
    wait(lambda: state(running, id) == "temporary-failure")
    post(running, sns.notification(event("Delivery", 1, message_id=message_id), "2"))
    wait(lambda: len(timeline(running, id)) == 2)
    assert state(running, id) == "temporary-failure"


def test_a_receipt_without_tags_of_an_unknown_message_waits(running: Stack, sns: Topic) -> None:
    message_id = f"ses-{uuid4()}"
    early = sns.notification(event("Delivery", 1, message_id=message_id), "2")
    post(running, early, early)
    waiting = "SELECT count(*) FROM receipts_waiting WHERE message_id = %s"
    wait(lambda: running.sql(waiting, message_id) == [(1,)])


def test_a_text_to_our_number_is_a_dead_letter(running: Stack, sns: Topic) -> None:
    text = {"originationNumber": "+16135550199", "messageBody": "hi", "inboundMessageId": "i"}
    post(running, sns.notification(json.dumps(text), "2"))

    def reasons() -> list[bytes]:
        places = [(dead(RECEIPTS.name), number) for number in range(DEAD_PARTITIONS)]
        with closing(TopicReader(running.cluster, "tests", places)) as reader:
            letters = list(read_to_end(reader))
        assert not any(b"6135550199" in (letter.value() or b"") for letter in letters)
        return [dict(letter.headers() or [])["courant.reason"] for letter in letters]

    wait(lambda: b"inbound SMS are not supported yet" in reasons())
