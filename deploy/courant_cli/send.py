"""`courant send email|sms`: sends one notification through the API, by the unmodified client."""

import json
import time
from typing import Annotated, Any

import typer
from notifications_python_client.notifications import NotificationsAPIClient
from rich.console import Console

from courant_cli.installation import Installation

send = typer.Typer(help="Send one notification.", no_args_is_help=True)
console = Console(highlight=False)
DEADLINE_SECONDS = 60.0
FINAL = {"delivered", "permanent-failure", "temporary-failure", "technical-failure",
         "provider-failure", "cancelled"}  # fmt: skip

Values = Annotated[
    list[str] | None, typer.Option("--value", help="NAME=TEXT, such as name=Amal; may be repeated.")
]
Template = Annotated[
    str | None, typer.Option("--template", help="The template's id. By default the demo's.")
]
Follow = Annotated[bool, typer.Option(help="Wait until the notification has a final state.")]


def client() -> NotificationsAPIClient:
    installation = Installation()
    return NotificationsAPIClient(
        installation.variable("COURANT_API_KEY"), base_url=installation.variable("COURANT_URL")
    )


@send.command()
def email(to: str, template: Template = None, value: Values = None, follow: Follow = True) -> None:
    """Send an email. Example: courant send email amal@example.com"""
    id = template or Installation().variable("COURANT_EMAIL_TEMPLATE_ID")
    show(client().send_email_notification(to, id, personalisation=values(value)), follow)


@send.command()
def sms(to: str, template: Template = None, value: Values = None, follow: Follow = True) -> None:
    """Send an SMS. Example: courant send sms +16135550142"""
    id = template or Installation().variable("COURANT_SMS_TEMPLATE_ID")
    show(client().send_sms_notification(to, id, personalisation=values(value)), follow)


def values(given: list[str] | None) -> dict[str, str]:
    """Parse NAME=TEXT pairs; the demo's templates need `name`."""
    return dict(each.split("=", 1) for each in given or ["name=Amal"])


def show(answer: Any, follow: bool) -> None:
    """Print the 201, then each state until the final one."""
    console.print_json(json.dumps(answer))
    until, status = time.monotonic() + DEADLINE_SECONDS, ""
    while follow and status not in FINAL and time.monotonic() < until:
        now = client().get_notification_by_id(answer["id"])["status"]
        if now != status:
            console.print(now)
        status = now
        time.sleep(0.1)
