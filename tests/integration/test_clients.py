"""The official client library, unmodified, sends through the whole product."""

from datetime import UTC, datetime, timedelta

import pytest
import requests
from notifications_python_client.errors import HTTPError

from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

KEYS = ["COURANT_API_KEY", "COURANT_TEAM_KEY", "COURANT_TEST_KEY"]
TEAM_EMAIL, TEAM_PHONE = "amal@example.com", "+16135550142"
VALUES = {"name": "Zoë"}


@pytest.mark.parametrize("key", KEYS)
def test_an_email_and_an_sms_are_read_back_until_delivered(stack: Stack, key: str) -> None:
    client, known = stack.client(key), stack.variables
    email = client.send_email_notification(
        TEAM_EMAIL, known["COURANT_EMAIL_TEMPLATE_ID"], personalisation=VALUES, reference=key
    )
    sms = client.send_sms_notification(
        TEAM_PHONE, known["COURANT_SMS_TEMPLATE_ID"], personalisation=VALUES
    )
    for sent in (email, sms):
        client.get_notification_by_id(sent["id"])  # A read right after the send is never a 404.
        wait(
            lambda id=sent["id"]: client.get_notification_by_id(id)["status"] == "delivered",  # type: ignore[misc]
            "delivered",
        )
    assert email["content"]["body"] == sms["content"]["body"] == "Hello Zoë"
    listed = client.get_all_notifications(reference=key)["notifications"]
    assert [each["id"] for each in listed] == [email["id"]]
    assert email["id"] in [each["id"] for each in client.get_all_notifications_iterator()]


def test_a_test_key_reaches_no_provider(stack: Stack) -> None:
    client, known = stack.client("COURANT_TEST_KEY"), stack.variables
    sent = client.send_email_notification(
        TEAM_EMAIL, known["COURANT_EMAIL_TEMPLATE_ID"], personalisation=VALUES
    )
    wait(lambda: stack.state(sent["id"]) == "delivered", "delivered")
    assert sent["id"] not in stack.sendings()


def test_a_team_key_cannot_send_to_a_stranger(stack: Stack) -> None:
    with pytest.raises(HTTPError, match="team-only API key") as raised:
        stack.client("COURANT_TEAM_KEY").send_email_notification(
            "stranger@example.net",
            stack.variables["COURANT_EMAIL_TEMPLATE_ID"],
            personalisation=VALUES,
        )
    assert raised.value.status_code == 400


def test_a_scheduled_email_is_claimed_only_after_its_time(stack: Stack) -> None:
    due = datetime.now(UTC) + timedelta(seconds=10)
    sent = requests.post(
        f"{stack.url}/v2/notifications/email",
        json={
            "email_address": TEAM_EMAIL,
            "template_id": stack.variables["COURANT_EMAIL_TEMPLATE_ID"],
            "personalisation": VALUES,
            "scheduled_for": due.isoformat(),
        },
        headers={"Authorization": f"ApiKey-v1 {stack.variables['COURANT_API_KEY']}"},
        timeout=ANSWER_SECONDS,
    )
    assert sent.status_code == 201
    id = sent.json()["id"]
    wait(lambda: stack.state(id) == "delivered", "delivered")
    [(at,)] = stack.sql("SELECT at FROM events WHERE id = %s AND move = 'claimed'", id)
    assert at >= due


def test_requests_with_one_idempotency_key_are_one_notification(stack: Stack) -> None:
    known = stack.variables
    headers = {
        "Authorization": f"ApiKey-v1 {known['COURANT_API_KEY']}",
        "Idempotency-Key": "order 17",
    }
    body = {
        "email_address": TEAM_EMAIL,
        "template_id": known["COURANT_EMAIL_TEMPLATE_ID"],
        "personalisation": VALUES,
    }
    url = f"{stack.url}/v2/notifications/email"
    first, second = (
        requests.post(url, json=body, headers=headers, timeout=ANSWER_SECONDS) for _ in range(2)
    )
    assert first.json()["id"] == second.json()["id"]
    wait(lambda: stack.state(first.json()["id"]) == "delivered", "delivered")
    assert stack.sendings().count(first.json()["id"]) == 1
    other = requests.post(
        url, json={**body, "reference": "another"}, headers=headers, timeout=ANSWER_SECONDS
    )
    assert other.status_code == 409
