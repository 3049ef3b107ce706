"""Idempotency-Keys over HTTP: types of API keys, and requests at the same time."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from notifications_python_client.notifications import NotificationsAPIClient

from courant import ids
from courant.contracts import ENCODE, Content, KeyType, Notification
from courant.kafka.producer import KafkaProducer
from courant.records import Outgoing
from courant.testing.builders import INBOX
from courant.topics import Channel, Lane
from integration.ingest_stack import Stack, stack
from support.ingest.world import EMAIL_TEMPLATE, NUMBERS, RING, SERVICE, api_key, email, key
from support.waiting import ANSWER_SECONDS, wait

CONFLICT = "Idempotency-Key has been used with another body in the last 48 hours"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as started:
        yield started


def post(running: Stack, key: str, body: dict[str, Any], number: int = 1) -> httpx2.Response:
    return httpx2.post(
        f"{running.base}/v2/notifications/email",
        json=body,
        headers={"authorization": f"ApiKey-v1 {api_key(number)}", "idempotency-key": key},
        timeout=ANSWER_SECONDS,
    )


def get(running: Stack, id: str, number: int = 1) -> httpx2.Response:
    return httpx2.get(
        f"{running.base}/v2/notifications/{id}",
        headers={"authorization": f"ApiKey-v1 {api_key(number)}"},
        timeout=ANSWER_SECONDS,
    )


def test_a_test_keys_request_does_not_swallow_the_live_one(running: Stack) -> None:
    name, body = str(uuid4()), email(email_address="friend@example.com")
    ids = {}
    for type, number in NUMBERS.items():
        answer = post(running, name, body, number)
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, None)
        ids[type] = answer.json()["id"]
        assert get(running, ids[type], number).status_code == 200
    assert len(set(ids.values())) == len(KeyType)
    for type, id in ids.items():
        sql = "SELECT key_type FROM notifications WHERE id = %s"
        assert running.sql(sql, UUID(id)) == [(str(type),)]
        again = post(running, name, body, NUMBERS[type])
        assert (again.json()["id"], again.headers["idempotency-replayed"]) == (id, "true")


def test_of_six_bodies_at_the_same_time_one_is_accepted_and_stored(running: Stack) -> None:
    name = str(uuid4())
    bodies = [email(reference=f"{name}-{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(lambda body: post(running, name, body), bodies)]
    assert Counter(each.status_code for each in answers) == {201: 1, 409: 5}
    [accepted] = [each.json() for each in answers if each.status_code == 201]
    refused = [each.json()["errors"][0] for each in answers if each.status_code == 409]
    assert {(each["error"], each["message"]) for each in refused} == {("ConflictError", CONFLICT)}
    assert get(running, accepted["id"]).json()["reference"] == accepted["reference"]
    sql = "SELECT id FROM notifications WHERE reference LIKE %s"
    assert running.sql(sql, f"{name}%") == [(UUID(accepted["id"]),)]


def test_six_equal_requests_at_the_same_time_have_one_id(running: Stack) -> None:
    name = str(uuid4())
    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(lambda _: post(running, name, email(reference=name)), range(6))]
    assert {each.status_code for each in answers} == {201}
    [id] = {each.json()["id"] for each in answers}
    assert get(running, id).status_code == 200
    assert running.sql("SELECT count(*) FROM notifications WHERE reference = %s", name) == [(1,)]


@pytest.mark.parametrize("earlier", [True, False])
def test_another_body_that_another_ingest_accepted_is_shown_as_refused(
    running: Stack, earlier: bool
) -> None:
    name = str(uuid4())
    first = UUID(post(running, name, email(reference=name)).json()["id"])
    assert get(running, str(first)).status_code == 200
    sql = "SELECT key_hash, accepted_at FROM idempotency WHERE id = %s"
    [(key_hash, at)] = running.sql(sql, first)
    at += timedelta(seconds=-2 if earlier else 2)
    second = of_another_ingest(bytes(key_hash), at, name)
    # No deliverer runs here, so that the first still waits when the earlier one comes.
    producer = KafkaProducer(running.cluster, "another-ingest")
    producer.produce(Outgoing(INBOX, second.id.bytes, second.encode()))
    producer.flush()
    lost, kept = (first, second.id) if earlier else (second.id, first)
    client = NotificationsAPIClient(api_key(1), base_url=running.base)
    wait(
        lambda: client.get_notification_by_id(str(lost))["status"] == "technical-failure", "refused"
    )
    assert client.get_notification_by_id(str(lost))["provider_response"] == CONFLICT
    assert client.get_notification_by_id(str(kept))["status"] == "created"
    sql = "SELECT count(*) FROM events WHERE id = %s AND move = 'idempotency-conflict'"
    assert running.sql(sql, lost) == [(1,)]


def of_another_ingest(key_hash: bytes, at: datetime, reference: str) -> Notification:
    """Return the record of a request with the same key and another body."""
    id = ids.derived(at, key_hash, b"another")
    content = ENCODE(Content(to="b@example.com", personalisation={"name": "b"}))
    return Notification(
        id=id,
        service_id=SERVICE,
        key_id=key(1).id,
        key_type=KeyType.NORMAL,
        template_id=EMAIL_TEMPLATE,
        template_version=1,
        channel=Channel.EMAIL,
        lane=Lane.NORMAL,
        reference=reference,
        recipient_hash=b"b",
        sealed=RING.encrypt(content, owner=id.bytes),
        accepted_at=at,
        idempotency_key=key_hash,
        body_hash=b"another",
    )
