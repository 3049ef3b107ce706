"""`courant key|template|sender …`: creates, lists, shows and revokes directory entries."""

import json
import secrets as random
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from courant import crypto
from courant.contracts import KeyType
from courant.directory import publish
from courant.directory.entries import AnyEntry, ApiKey, Directory, Entry, Sender, Template
from courant.topics import Channel, Lane
from courant_cli.installation import Installation
from courant_local.plan import CommandError

E = TypeVar("E", bound=Entry)
NEVER_SHOWN = {"secret", "secret_hash", "safelist"}

key = typer.Typer(help="Manage API keys.", no_args_is_help=True)
template = typer.Typer(help="Manage templates and their versions.", no_args_is_help=True)
sender = typer.Typer(help="Manage reply-to addresses and SMS senders.", no_args_is_help=True)
console = Console(highlight=False)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def put_entry(installation: Installation, entry: AnyEntry) -> AnyEntry:
    """Store and publish an entry."""
    return publish.put(installation.engine, installation.producer, entry)


def found(entries: dict[UUID, E], id: UUID, kind: str) -> E:
    """Return the entry with this id; raises CommandError."""
    if id not in entries:
        raise CommandError(f"no {kind} has the id {id}")
    return entries[id]


def of_kind(known: Directory, kind: type[E]) -> list[E]:
    return [each for each in known.entries.values() if isinstance(each, kind)]


def show(entry: Entry) -> None:
    """Print an entry without its secret or personal fields."""
    shown = {name: value for name, value in msgspec.structs.asdict(entry).items()
             if name not in NEVER_SHOWN}  # fmt: skip
    console.print_json(json.dumps(msgspec.to_builtins(shown)))


def listed(entries: list[E], *columns: str) -> None:
    """Print entries as a table."""
    drawn = Table(*columns, box=None)
    for each in entries:
        drawn.add_row(*(str(getattr(each, column)) for column in columns))
    console.print(drawn)


@key.command("create")
def create_key(service_id: UUID, name: str, type: KeyType = KeyType.NORMAL) -> None:
    """Create an API key and print it. It is never shown again."""
    installation = Installation()
    found(publish.load(installation.engine).services, service_id, "service")
    _, text = new_key(installation, service_id, name, type)
    print(text)


def new_key(
    installation: Installation, service_id: UUID, name: str, type: KeyType
) -> tuple[ApiKey, str]:
    """Create and publish a key; return its entry and the text that the client receives."""
    id, secret = uuid.uuid4(), str(UUID(bytes=random.token_bytes(16), version=4))
    entry = ApiKey(
        id=id,
        service_id=service_id,
        name=name,
        type=type,
        secret=installation.ring.encrypt(secret.encode(), id.bytes),
        secret_hash=crypto.keyed_hash(installation.hash_key, b"secret", secret.encode()),
    )
    put_entry(installation, entry)
    return entry, f"gcntfy-{name}-{service_id}-{secret}"


@key.command("list")
def list_keys() -> None:
    """List all API keys."""
    found = of_kind(publish.load(Installation().engine), ApiKey)
    listed(found, "id", "service_id", "name", "type", "expires_at")


@key.command("show")
def show_key(id: UUID) -> None:
    """Show one API key, without its secret."""
    show(key_of(publish.load(Installation().engine), id))


@key.command("revoke")
def revoke_key(id: UUID) -> None:
    """Revoke an API key: it stops everywhere within a second."""
    installation = Installation()
    entry = key_of(publish.load(installation.engine), id)
    show(put_entry(installation, msgspec.structs.replace(entry, expires_at=now())))


def key_of(known: Directory, id: UUID) -> ApiKey:
    return found({each.id: each for each in of_kind(known, ApiKey)}, id, "key")


BODY_MAX, NAME_MAX = 50_000, 255


@template.command("create")
def create_template(
    service_id: UUID,
    channel: Channel,
    name: str,
    body: str,
    subject: str | None = None,
    lane: Lane = Lane.NORMAL,
    id: Annotated[UUID | None, typer.Option(help="Add a version to this template.")] = None,
) -> None:
    """Create a template, or a new version. The body may be a file, such as `@welcome.md`."""
    installation = Installation()
    known = publish.load(installation.engine)
    found(known.services, service_id, "service")
    text = Path(body[1:]).read_text() if body.startswith("@") else body
    earlier = known.template(id) if id else None
    if id and not earlier:
        raise CommandError(f"no template has the id {id}")
    template = new_template(service_id, channel, name, subject, text, lane, earlier)
    show(put_entry(installation, template))


def new_template(
    service_id: UUID,
    channel: Channel,
    name: str,
    subject: str | None,
    body: str,
    lane: Lane = Lane.NORMAL,
    earlier: Template | None = None,
) -> Template:
    """Return the entry of a new version; raises CommandError."""
    if len(body) > BODY_MAX or len(name) > NAME_MAX:
        raise CommandError(f"a body has at most {BODY_MAX} characters, a name {NAME_MAX}")
    if (channel is Channel.EMAIL) != bool(subject):
        raise CommandError("an email template has a subject, and an SMS template has none")
    return Template(
        id=earlier.id if earlier else uuid.uuid4(),
        version=earlier.version + 1 if earlier else 1,
        service_id=service_id,
        channel=channel,
        name=name,
        subject=subject,
        body=body,
        lane=lane,
        created_at=earlier.created_at if earlier else now(),
        updated_at=now() if earlier else None,
    )


@template.command("list")
def list_templates() -> None:
    """List every version of every template."""
    found = of_kind(publish.load(Installation().engine), Template)
    listed(found, "id", "version", "service_id", "channel", "lane", "name", "archived")


@template.command("show")
def show_template(id: UUID, version: int | None = None) -> None:
    """Show one version of a template, or the newest."""
    entry = publish.load(Installation().engine).template(id, version)
    if not entry:
        raise CommandError(f"no template has the id {id} and that version")
    show(entry)


@template.command("revoke")
def revoke_template(id: UUID) -> None:
    """Archive a template: ingest rejects new requests, but sends the ones that it accepted."""
    installation = Installation()
    entry = publish.load(installation.engine).template(id)
    if not entry:
        raise CommandError(f"no template has the id {id}")
    show(put_entry(installation, msgspec.structs.replace(entry, archived=True)))


@sender.command("create")
def create_sender(
    service_id: UUID,
    channel: Channel,
    value: str,
    default: Annotated[bool, typer.Option(help="Use it when a request names no sender.")] = False,
) -> None:
    """Create a reply-to address (email) or a sender (sms)."""
    installation = Installation()
    found(publish.load(installation.engine).services, service_id, "service")
    entry = Sender(
        id=uuid.uuid4(), service_id=service_id, channel=channel, value=value, default=default
    )
    show(put_entry(installation, entry))


@sender.command("list")
def list_senders() -> None:
    """List all senders."""
    found = of_kind(publish.load(Installation().engine), Sender)
    listed(found, "id", "service_id", "channel", "value", "default", "archived")


@sender.command("show")
def show_sender(id: UUID) -> None:
    """Show one sender."""
    show(sender_of(publish.load(Installation().engine), id))


@sender.command("revoke")
def revoke_sender(id: UUID) -> None:
    """Archive a sender."""
    installation = Installation()
    entry = sender_of(publish.load(installation.engine), id)
    show(put_entry(installation, msgspec.structs.replace(entry, archived=True)))


def sender_of(known: Directory, id: UUID) -> Sender:
    return found({each.id: each for each in of_kind(known, Sender)}, id, "sender")
