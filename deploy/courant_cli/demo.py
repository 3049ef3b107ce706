"""Creates the demo service for `courant up` and sends its first email and SMS.

The service gets keys and templates. The email and the SMS go through the HTTP API, by the
unmodified GC Notify client.
"""

import contextlib
import logging
import time
from typing import Any

import msgspec
from notifications_python_client.errors import HTTP503Error, HTTPError
from notifications_python_client.notifications import NotificationsAPIClient
from rich.console import Console

from courant.contracts import KeyType
from courant.directory.entries import Sender
from courant.topics import Channel
from courant_cli import entries, services, trace
from courant_cli.installation import Installation
from courant_local import home
from courant_local.plan import Plan

EMAIL, PHONE = "amal@example.com", "+16135550142"
DEADLINE_SECONDS = 60.0

console = Console(highlight=False)


def run(wanted: Plan) -> None:
    """Create the demo service unless it exists, send an email and an SMS, show their timelines."""
    installation = Installation()
    file = wanted.home / "demo.json"
    if not home.read(file):
        home.write(file, seed(installation), mode=0o600)
    demo = home.read(file)
    # The client logs each of its requests; the timelines show them already.
    logging.getLogger("notifications_python_client").setLevel(logging.ERROR)
    client = NotificationsAPIClient(demo["COURANT_API_KEY"], base_url=wanted.url)
    answers = [
        first(
            lambda: client.send_email_notification(
                EMAIL, demo["COURANT_EMAIL_TEMPLATE_ID"], personalisation={"name": "Amal"}
            )
        ),
        first(
            lambda: client.send_sms_notification(
                PHONE, demo["COURANT_SMS_TEMPLATE_ID"], personalisation={"name": "Amal"}
            )
        ),
    ]
    for kind, answer in zip(("email", "SMS"), answers, strict=True):
        status = until_delivered(client, answer["id"])
        console.print(f"\n{kind} {answer['id']}: {status}")
        console.print(trace.timeline(installation, answer["id"]))


def seed(installation: Installation) -> dict[str, str]:
    """Create the demo service, with a key of each type, templates and senders."""
    service = services.new_service(installation, "Courant demo", "demo", False, [EMAIL, PHONE])
    # `courant load` should reach the system's limits, not this client's.
    service = msgspec.structs.replace(
        service, rate_limit=10_000_000, daily_email=10_000_000, daily_sms=10_000_000
    )
    entries.put_entry(installation, service)
    template = {
        Channel.EMAIL: entries.new_template(
            service.id, Channel.EMAIL, "Welcome", "Your application", "Hello ((name))"
        ),
        Channel.SMS: entries.new_template(
            service.id, Channel.SMS, "Reminder", None, "Hello ((name))"
        ),
    }
    for each in template.values():
        entries.put_entry(installation, each)
    sender = Sender(
        id=service.id, service_id=service.id, channel=Channel.SMS, value="COURANT", default=True
    )
    entries.put_entry(installation, sender)
    keys = {
        type: entries.new_key(installation, service.id, f"demo-{type}", type)[1] for type in KeyType
    }
    return {
        "COURANT_API_KEY": keys[KeyType.NORMAL],
        "COURANT_TEAM_KEY": keys[KeyType.TEAM],
        "COURANT_TEST_KEY": keys[KeyType.TEST],
        "COURANT_SERVICE_ID": str(service.id),
        "COURANT_EMAIL_TEMPLATE_ID": str(template[Channel.EMAIL].id),
        "COURANT_SMS_TEMPLATE_ID": str(template[Channel.SMS].id),
    }


def first(send: Any) -> Any:
    """Send, and retry while the directory has not yet reached an ingest that has just started."""
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return send()
        except HTTPError as error:
            if time.monotonic() > until or error.status_code not in {400, 403, 503}:
                raise
            time.sleep(0.1)


def until_delivered(client: NotificationsAPIClient, id: str) -> str:
    """Poll until the notification is delivered or the deadline passes; return its last status."""
    until = time.monotonic() + DEADLINE_SECONDS
    status = ""
    while status != "delivered" and time.monotonic() < until:
        # 503 means that its row is not stored yet: on a busy machine the saver may take seconds.
        with contextlib.suppress(HTTP503Error):
            status = client.get_notification_by_id(id)["status"]
        time.sleep(0.05)
    return status
