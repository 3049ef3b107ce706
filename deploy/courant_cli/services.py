"""`courant service create|list|show|retention|revoke`: the clients of our API."""

import json
import uuid
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from courant.directory import publish
from courant.directory.entries import (
    RETENTION_DAYS,
    RETENTION_DAYS_MAX,
    RETENTION_DAYS_MIN,
    Service,
)
from courant.recipients import Unusable, email, phone
from courant_cli.entries import found, listed, of_kind, put_entry, show
from courant_cli.installation import Installation
from courant_local.plan import CommandError

app = typer.Typer(help="Manage services, the clients of our API.", no_args_is_help=True)


@app.command("create")
def create_service(
    name: str,
    email_from: Annotated[str, typer.Option(help="Local part of the sending address.")] = "notify",
    trial: Annotated[bool, typer.Option(help="Send only to the team and the safelist.")] = False,
    guest: Annotated[list[str] | None, typer.Option(help="Recipient of the team.")] = None,
    retention_days: Annotated[
        int,
        typer.Option(
            min=RETENTION_DAYS_MIN, max=RETENTION_DAYS_MAX, help="Days that content is kept."
        ),
    ] = RETENTION_DAYS,
) -> None:
    """Create a service."""
    installation = Installation()
    entry = new_service(installation, name, email_from, trial, guest or [])
    show(put_entry(installation, msgspec.structs.replace(entry, retention_days=retention_days)))


def new_service(
    installation: Installation, name: str, email_from: str, trial: bool, guests: list[str]
) -> Service:
    """Return the entry of a new service; raises CommandError for an invalid recipient."""
    id = uuid.uuid4()
    sealed = installation.ring.encrypt(
        json.dumps([recipient(each) for each in guests]).encode(), id.bytes
    )
    permissions = frozenset({"email", "sms", "international_sms"})
    return Service(
        id=id,
        name=name,
        email_from=email_from,
        restricted=trial,
        safelist=sealed,
        permissions=permissions,
    )


def recipient(text: str) -> str:
    """Return the normalised address or number; raises CommandError, which does not repeat it."""
    try:
        return email(text).address if "@" in text else phone(text).number
    except Unusable as error:
        raise CommandError(f"--guest is not a valid recipient: {error}") from None


@app.command("list")
def list_services() -> None:
    """List all services."""
    listed(of_kind(publish.load(Installation().engine), Service), "id", "name", "active")


@app.command("show")
def show_service(id: UUID) -> None:
    """Show one service."""
    show(found(publish.load(Installation().engine).services, id, "service"))


@app.command("revoke")
def revoke_service(id: UUID) -> None:
    """Suspend a service: its keys accept nothing any more."""
    installation = Installation()
    entry = found(publish.load(installation.engine).services, id, "service")
    show(put_entry(installation, msgspec.structs.replace(entry, active=False)))


@app.command("retention")
def change_retention(
    id: UUID,
    days: Annotated[int, typer.Argument(min=RETENTION_DAYS_MIN, max=RETENTION_DAYS_MAX)],
) -> None:
    """Keep a service's content for so many days from acceptance; then it is emptied for good."""
    installation = Installation()
    entry = found(publish.load(installation.engine).services, id, "service")
    show(put_entry(installation, msgspec.structs.replace(entry, retention_days=days)))
