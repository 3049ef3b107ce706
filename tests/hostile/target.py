"""The stack under attack: services in each state that a check needs, their keys and templates."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec

from courant.contracts import KeyType
from courant.directory.entries import Sender, Service, Template
from courant.topics import Channel
from courant_cli import entries, services
from courant_cli.installation import Installation
from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

PLENTY = 10_000_000
RATE = 5  # Requests a minute that the service `short` may make.
GUEST = "guest@example.com"
LONG = "x" * 613


@dataclass
class Client:
    """A service with its keys and its two templates."""

    service: Service
    keys: dict[KeyType, str]
    email: UUID
    sms: UUID

    def authorization(self, type: KeyType = KeyType.NORMAL) -> dict[str, str]:
        """Return the Authorization header with the key itself."""
        return {"authorization": f"ApiKey-v1 {self.keys[type]}"}

    def bearer(self, type: KeyType = KeyType.NORMAL, **changed: Any) -> dict[str, str]:
        """Return the Authorization header with a token; a claim changed to None is omitted."""
        claims = {"iss": str(self.service.id), "iat": int(time.time()), **changed}
        claims = {name: value for name, value in claims.items() if value is not None}
        return {"authorization": f"Bearer {signed(claims, self.keys[type][-36:])}"}

    def body(self, channel: Channel = Channel.EMAIL, **changed: Any) -> dict[str, Any]:
        """Return the body of a valid send request, with the given fields changed."""
        email = channel is Channel.EMAIL
        to = {"email_address": "someone@example.com"} if email else {"phone_number": "+16135550142"}
        template_id = str(self.email if email else self.sms)
        return {**to, "template_id": template_id, "personalisation": {"name": "Zoë"}, **changed}


def signed(claims: dict[str, Any], secret: str, algorithm: str = "HS256") -> str:
    """Sign any claims with a secret of any length.

    PyJWT would reject invalid claims and short secrets.
    """
    content = f"{part({'typ': 'JWT', 'alg': algorithm})}.{part(claims)}"
    digest = hmac.digest(secret.encode(), content.encode(), f"sha{algorithm[2:]}")
    return f"{content}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def part(value: object) -> str:
    """Encode one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@dataclass
class Target:
    """The stack, its services by state, and the entries that requests refer to."""

    stack: Stack
    client: Client  # An active service without any restriction.
    other: Client
    suspended: Client
    keyless: Client
    trial: Client
    mute: Client  # Has no permission for any channel.
    filing: Client  # May send files.
    short: Client  # May make only RATE requests a minute.
    spent: list[Client]  # Have used up a daily or annual limit; two are live, two in trial.
    revoked: list[str] = field(default_factory=list)
    archived: dict[Channel, UUID] = field(default_factory=dict)
    hidden: UUID = field(default_factory=uuid4)
    long: UUID = field(default_factory=uuid4)
    bare: dict[Channel, UUID] = field(default_factory=dict)  # The body is one placeholder.
    senders: dict[Channel, UUID] = field(default_factory=dict)


class DirectoryWriter:
    """Writes entries into a stack's directory."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def client(self, name: str, keys: bool = True, **changed: Any) -> Client:
        """Create a service with two templates and, if `keys` is set, a key of each type."""
        plenty = dict.fromkeys(
            ("rate_limit", "daily_email", "daily_sms", "annual_email", "annual_sms"), PLENTY
        )
        service = services.new_service(self._installation, name, "hostile", False, [GUEST])
        service = msgspec.structs.replace(
            service, **{**plenty, "permissions": frozenset({"email", "sms"}), **changed}
        )
        entries.put_entry(self._installation, service)
        secrets = {
            type: entries.new_key(self._installation, service.id, f"{name}-{type}", type)[1]
            for type in (KeyType if keys else ())
        }
        email, sms = (self.template(service, each) for each in (Channel.EMAIL, Channel.SMS))
        return Client(service, secrets, email, sms)

    def template(
        self, service: Service, channel: Channel, body: str = "Hello ((name))", **changed: Any
    ) -> UUID:
        """Create a template, and return its id."""
        subject = "Hi ((name))" if channel is Channel.EMAIL else None
        template = entries.new_template(service.id, channel, f"hostile {channel}", subject, body)
        template = msgspec.structs.replace(template, **changed)
        entries.put_entry(self._installation, template)
        assert isinstance(template, Template)
        return template.id

    def sender(self, service: Service, channel: Channel) -> UUID:
        """Create an SMS sender or an email's reply-to address, and return its id."""
        value = "reply@example.com" if channel is Channel.EMAIL else "+16135550100"
        sender = Sender(id=uuid4(), service_id=service.id, channel=channel, value=value)
        entries.put_entry(self._installation, sender)
        return sender.id

    def revoked(self, service: Service, since: timedelta) -> str:
        """Create a key that expires `since` from now, and return its secret."""
        key, secret = entries.new_key(self._installation, service.id, "gone", KeyType.NORMAL)
        entries.put_entry(
            self._installation, msgspec.structs.replace(key, expires_at=now() + since)
        )
        return secret


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def create_target(stack: Stack) -> Target:
    """Create all the entries, and return once ingest knows them."""
    maker, live, day = DirectoryWriter(stack.installation), {"restricted": False}, timedelta(days=1)
    client = maker.client("hostile")
    target = Target(
        stack,
        client,
        other=maker.client("other"),
        suspended=maker.client("suspended", active=False),
        keyless=maker.client("keyless", keys=False),
        trial=maker.client("trial", restricted=True),
        mute=maker.client("mute", permissions=frozenset()),
        filing=maker.client("filing", permissions=frozenset({"email", "sms", "upload_document"})),
        short=maker.client("short", rate_limit=RATE),
        spent=[
            maker.client("spent", **{f"{period}_email": 0, f"{period}_sms": 0, **kind})
            for period in ("annual", "daily")
            for kind in (live, {"restricted": True})
        ],
    )
    service = client.service
    target.revoked = [maker.revoked(service, -day), maker.revoked(service, day)]
    target.archived = {each: maker.template(service, each, archived=True) for each in Channel}
    target.hidden = maker.template(service, Channel.EMAIL, hidden=True)
    target.long = maker.template(service, Channel.SMS, LONG)
    target.bare = {each: maker.template(service, each, "((name))") for each in Channel}
    target.senders = {each: maker.sender(service, each) for each in Channel}
    # All entries are in one partition, so an ingest that knows the last entry knows all of them.
    last = maker.client("last").authorization()
    wait(known(stack.url, last), "the directory in ingest")
    return target


def known(url: str, authorization: dict[str, str]) -> Callable[[], bool]:
    def ask() -> bool:
        return (
            httpx2.get(
                f"{url}/v2/templates", headers=authorization, timeout=ANSWER_SECONDS
            ).status_code
            == 200
        )

    return ask
