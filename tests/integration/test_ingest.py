"""Ingest as a process, with a real broker, a real PostgreSQL, real HTTP, an unmodified client."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest
from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient

from courant import ids
from courant.kafka import clients, offsets
from courant.topics import INBOX
from integration.ingest_stack import Stack, stack
from support.ingest.recorded import CASES, agrees, placed, request, wanted
from support.ingest.world import EMAIL_TEMPLATE, SMS_TEMPLATE, api_key, email, key, sms, token
from support.waiting import ANSWER_SECONDS, BUSY_SECONDS, WAIT_SECONDS, in_time, wait

AUTHORIZED = {"authorization": f"ApiKey-v1 {api_key(1)}"}


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as started:
        yield started


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_process_answers_as_recorded(running: Stack, case: dict[str, Any]) -> None:
    url = f"{running.base}{placed(case['path'])}"
    answer = httpx2.request(case["method"], url, timeout=ANSWER_SECONDS, **request(case))
    assert answer.status_code == case["status"], answer.text
    assert agrees(wanted(case), answer.json(), running.base), answer.text


def test_the_public_client_sends_and_reads_back_at_once(running: Stack) -> None:
    client = NotificationsAPIClient(api_key(1), base_url=running.base)
    sent = client.send_email_notification(
        "a@example.com", str(EMAIL_TEMPLATE), personalisation={"name": "Zoë"}, reference="mine"
    )
    # The test need not wait, because ingest's read waits for the row.
    found = client.get_notification_by_id(sent["id"])
    assert (found["id"], found["body"], found["subject"]) == (sent["id"], "Hello Zoë", "Hi")
    text = client.send_sms_notification("+16135550199", str(SMS_TEMPLATE), {"name": "x"})
    wait(lambda: client.get_notification_by_id(text["id"])["type"] == "sms")
    listed = client.get_all_notifications(template_type="email", reference="mine")
    assert [each["id"] for each in listed["notifications"]] == [sent["id"]]
    everything = [each["id"] for each in client.get_all_notifications_iterator()]
    assert {sent["id"], text["id"]} <= set(everything)
    assert client.get_template(str(EMAIL_TEMPLATE))["name"] == "conf email"
    assert client.get_template_version(str(EMAIL_TEMPLATE), 1)["version"] == 1
    assert len(client.get_all_templates()["templates"]) == 2
    preview = client.post_template_preview(str(EMAIL_TEMPLATE), personalisation={"name": "x"})
    assert preview["body"] == "Hello x"
    assert client.get_received_texts()["received_text_messages"] == []
    with pytest.raises(HTTPError) as raised:
        client.send_email_notification("nobody", str(EMAIL_TEMPLATE))
    assert raised.value.status_code == 400
    with pytest.raises(HTTPError) as raised:
        client.get_notification_by_id(str(uuid4()))
    assert raised.value.message == "Notification not found in database"


def test_an_emptied_notification_is_not_found(running: Stack) -> None:
    client = NotificationsAPIClient(api_key(1), base_url=running.base)
    sent = client.send_email_notification(
        "a@example.com", str(EMAIL_TEMPLATE), personalisation={"name": "x"}, reference="emptied"
    )
    assert client.get_notification_by_id(sent["id"])["reference"] == "emptied"
    empty = "UPDATE notifications SET sealed = '', reference = NULL WHERE id = %s"
    running.sql(empty, sent["id"])
    # Everything is folded, as recovery's marks would say: what is missing is missing for certain.
    running.sql(
        """INSERT INTO marks
        SELECT now() + interval '1 min', gen_random_uuid(), 'inbox', topic, '{}'
        FROM unnest(%s) AS topic""",
        [*INBOX.names()],
    )
    with pytest.raises(HTTPError) as emptied:
        client.get_notification_by_id(sent["id"])
    with pytest.raises(HTTPError) as missing:
        client.get_notification_by_id(str(ids.new(datetime.now(UTC))))
    assert emptied.value.status_code == 404
    assert emptied.value.message == missing.value.message
    assert client.get_all_notifications(reference="emptied")["notifications"] == []
    listed = [each["id"] for each in client.get_all_notifications_iterator()]
    assert sent["id"] not in listed
    running.sql("DELETE FROM marks")


def test_lists_are_filtered_by_what_is_stored(running: Stack) -> None:
    reference = str(uuid4())
    for body, path in [(email(reference=reference), "email"), (sms(reference=reference), "sms")]:
        url = f"{running.base}/v2/notifications/{path}"
        id = httpx2.post(url, json=body, headers=AUTHORIZED, timeout=ANSWER_SECONDS).json()["id"]
        read = f"{running.base}/v2/notifications/{id}"
        assert httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 200

    def found(**asked: Any) -> list[tuple[str, str]]:
        parameters = httpx2.QueryParams({"reference": reference, **asked})
        url = f"{running.base}/v2/notifications"
        listed = httpx2.get(
            url, params=parameters, headers=AUTHORIZED, timeout=ANSWER_SECONDS
        ).json()["notifications"]
        return sorted((each["type"], each["status"]) for each in listed)

    assert found() == found(status="created") == [("email", "created"), ("sms", "created")]
    running.sql("UPDATE notifications SET state = 'sending' WHERE reference = %s", reference)
    assert found() == found(status=["sent", "sending"]) == [("email", "sending"), ("sms", "sent")]
    assert found(status="sent") == [("sms", "sent")]
    assert found(status="failed") == []
    assert found(status="pending") == []
    assert found(template_type="sms") == [("sms", "sent")]
    assert found(older_than=str(uuid4())) == []
    newest = "SELECT max(id::text) FROM notifications WHERE reference = %s"
    [[last]] = running.sql(newest, reference)
    assert len(found(older_than=last)) == 1
    running.sql("UPDATE notifications SET job_id = id WHERE reference = %s", reference)
    assert found() == []
    assert len(found(include_jobs="True")) == 2


def test_an_idempotency_key_gives_one_row_and_the_first_answer(running: Stack) -> None:
    url = f"{running.base}/v2/notifications/email"
    headers = {**AUTHORIZED, "idempotency-key": str(uuid4())}
    first = httpx2.post(url, json=email(), headers=headers, timeout=ANSWER_SECONDS)
    id = first.json()["id"]
    read = httpx2.get(
        f"{running.base}/v2/notifications/{id}", headers=AUTHORIZED, timeout=ANSWER_SECONDS
    )
    assert read.status_code == 200
    again = httpx2.post(url, json=email(), headers=headers, timeout=ANSWER_SECONDS)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert (
        httpx2.post(
            url, json=email(reference="x"), headers=headers, timeout=ANSWER_SECONDS
        ).status_code
        == 409
    )
    assert running.sql("SELECT count(*) FROM notifications WHERE id = %s", id) == [(1,)]


def test_a_loser_of_an_idempotency_key_is_read_as_its_winner(running: Stack) -> None:
    winner = httpx2.post(
        f"{running.base}/v2/notifications/email",
        json=email(),
        headers=AUTHORIZED,
        timeout=ANSWER_SECONDS,
    )
    id, loser = winner.json()["id"], ids.new(datetime.now(UTC))
    running.sql("INSERT INTO aliases (id, winner) VALUES (%s, %s)", loser, UUID(id))
    read = httpx2.get(
        f"{running.base}/v2/notifications/{loser}", headers=AUTHORIZED, timeout=ANSWER_SECONDS
    )
    assert read.json()["id"] == id


def test_404_is_answered_only_once_all_earlier_records_are_folded(running: Stack) -> None:
    young = f"{running.base}/v2/notifications/{ids.new(datetime.now(UTC))}"
    old = f"{running.base}/v2/notifications/{ids.new(datetime.now(UTC) - timedelta(hours=1))}"
    running.sql("DELETE FROM marks")
    began = time.monotonic()
    answer = in_time(3, lambda: httpx2.get(young, headers=AUTHORIZED, timeout=ANSWER_SECONDS))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert time.monotonic() - began > 1.5

    with clients.admin(running.cluster, "test") as client:
        topic_ids = offsets.topic_ids(client, INBOX.names())

    def mark(at: str, ahead: int, topics: tuple[str, ...] = INBOX.names()) -> None:
        """Store marks: at this time each partition ended `ahead` records after what is folded."""
        for topic in topics:
            folded = dict(
                running.sql(
                    "SELECT partition, next FROM positions WHERE topic_id = %s", topic_ids[topic]
                )
            )
            ends = [int(str(folded.get(n, 0))) + ahead for n in range(INBOX.partitions)]
            running.sql(
                "INSERT INTO marks (at, topic_id, family, topic, ends) "
                "VALUES (now() + %s::interval, %s, 'inbox', %s, %s)",
                at, topic_ids[topic], topic, ends,
            )  # fmt: skip

    mark("1 minute", ahead=0, topics=INBOX.names()[1:])
    assert (
        httpx2.get(young, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 503
    )  # One topic has no mark yet.
    mark("1 minute", ahead=0, topics=INBOX.names()[:1])
    assert httpx2.get(young, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 404
    running.sql("DELETE FROM marks")
    mark("-30 minutes", ahead=0)
    assert httpx2.get(old, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 404
    assert httpx2.get(young, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 503
    running.sql("DELETE FROM marks")
    mark("-1 minute", ahead=0)
    # An id's time comes from its maker's clock, which may be ten minutes behind.
    behind = ids.new(datetime.now(UTC) - timedelta(minutes=10))
    url = f"{running.base}/v2/notifications/{behind}"
    assert httpx2.get(url, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 503
    running.sql("DELETE FROM marks")
    mark("-30 minutes", ahead=1)  # Kafka had one more record that is not folded yet.
    assert httpx2.get(old, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 503
    running.sql("DELETE FROM marks")


def test_a_revoked_key_is_rejected_within_a_second(running: Stack) -> None:
    running.publish(msgspec.structs.replace(key(8), number=1))
    url = f"{running.base}/v2/notifications"

    def status(number: int) -> int:
        return httpx2.get(
            url, headers={"authorization": f"Bearer {token(number)}"}, timeout=ANSWER_SECONDS
        ).status_code

    wait(lambda: status(8) == 200)
    revoked = msgspec.structs.replace(key(8), number=2, expires_at=datetime.now(UTC))
    running.publish(revoked)
    wait(lambda: status(8) == 403, "the key is rejected", 1 + BUSY_SECONDS)


def test_without_postgres_ingest_accepts_sends_and_answers_503_to_reads(running: Stack) -> None:
    running.postgres.stop()
    try:
        url = f"{running.base}/v2/notifications/email"
        headers = {**AUTHORIZED, "idempotency-key": "x"}
        sent = in_time(
            0.5, lambda: httpx2.post(url, json=email(), headers=headers, timeout=ANSWER_SECONDS)
        )
        assert sent.status_code == 201
        read = f"{running.base}/v2/notifications/{sent.json()['id']}"
        assert httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 503
    finally:
        running.postgres.start()
        running.postgres.wait_ready()
    wait(lambda: httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code == 200)


def test_a_read_from_a_frozen_postgres_is_answered_503(running: Stack) -> None:
    read = f"{running.base}/v2/notifications/{ids.new(datetime.now(UTC))}"
    assert httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS).status_code in (404, 503)
    running.postgres.freeze()
    try:
        answer = httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS)
    finally:
        running.postgres.thaw()
    assert answer.status_code == 503
    wait(
        lambda: (
            "cannot be read"
            not in httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS).text
        )
    )


def test_while_kafka_is_frozen_sends_are_answered_503_in_time(running: Stack) -> None:
    url = f"{running.base}/v2/notifications/email"

    client = httpx2.Client(headers=AUTHORIZED, timeout=ANSWER_SECONDS)

    def post(_: int = 0) -> int:
        return client.post(url, json=email()).status_code

    running.broker.freeze()
    try:
        with ThreadPoolExecutor(8) as threads:
            statuses = list(threads.map(post, range(16)))
        statuses.append(in_time(2.2, post))
        reason = {"reason": "Kafka does not acknowledge"}
        wait(
            lambda: httpx2.get(f"{running.health}/readyz", timeout=ANSWER_SECONDS).json() == reason
        )
        alive = httpx2.get(f"{running.health}/healthz", timeout=ANSWER_SECONDS).status_code
    finally:
        running.broker.thaw()
    assert statuses == [503] * 17
    assert alive == 200
    wait(lambda: post() == 201)
    client.close()


def test_health_and_metrics_are_on_a_port_of_their_own(running: Stack) -> None:
    metrics = httpx2.get(f"{running.health}/metrics").text
    assert 'courant_requests_total{route="/v2/notifications/email",status="201"}' in metrics
    # A stuck event loop would show a large figure here. This loop ran within the last seconds.
    [silent] = re.findall(r"^courant_loop_silent_seconds (\S+)$", metrics, re.MULTILINE)
    assert 0 <= float(silent) < 30
    for path in ("/metrics", "/readyz", "/healthz"):
        answer = httpx2.get(running.base + path)
        assert (answer.status_code, answer.json()["result"]) == (404, "error")
    assert httpx2.get(f"{running.health}/v2/notifications").status_code == 404


def test_on_sigterm_ingest_finishes_requests_in_flight_and_exits(running: Stack) -> None:
    """This test must stay the last one of the file, because it ends the process."""
    body = json.dumps(email()).encode()
    head = (
        "POST /v2/notifications/email HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: {AUTHORIZED['authorization']}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    read = f"{running.base}/v2/notifications/{ids.new(datetime.now(UTC))}"
    httpx2.get(read, headers=AUTHORIZED, timeout=ANSWER_SECONDS)  # Opens a database connection.
    running.postgres.freeze()  # A read that waits for Postgres must not keep the process running.
    try:
        with ThreadPoolExecutor(1) as threads:
            waits = threads.submit(httpx2.get, read, headers=AUTHORIZED, timeout=ANSWER_SECONDS)
            wait(lambda: running.in_flight() == 1 or waits.done(), "the read waits for Postgres")
            address = ("127.0.0.1", int(running.base.rpartition(":")[2]))
            with socket.create_connection(address, ANSWER_SECONDS) as line:
                line.sendall(head.encode() + body[:10])
                # The request's head has arrived, its body has not.
                wait(lambda: running.in_flight() == 2 - waits.done(), "the request is in flight")
                running.ingest.send_signal(signal.SIGTERM)
                wait(lambda: "stopping" in running.log.read_text(), "ingest stops")
                line.sendall(body[10:])
                assert line.recv(65536).startswith(b"HTTP/1.1 201")
            assert waits.result().status_code == 503
            assert running.ingest.wait(WAIT_SECONDS) == 0
    finally:
        running.postgres.thaw()
