"""What is besieged: services in every condition that a check asks for, their keys and templates."""

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
from courant_cli import entries
from courant_cli.installation import Installation
from support.stack import Stack
from support.waiting import ANSWER_SECONDS, wait

PLENTY = 10_000_000
RATE = 5  # requests a minute of the service that is held short
GUEST = "guest@example.com"
LONG = "x" * 613


@dataclass
class Client:
    """A service with what it needs to ask for something."""

    service: Service
    keys: dict[KeyType, str]
    email: UUID
    sms: UUID

    def authorization(self, type: KeyType = KeyType.NORMAL) -> dict[str, str]:
        """Give the header, with the key itself."""
        return {"authorization": f"ApiKey-v1 {self.keys[type]}"}

    def bearer(self, type: KeyType = KeyType.NORMAL, **changed: Any) -> dict[str, str]:
        """Give the header with a token; None takes a claim away."""
        claims = {"iss": str(self.service.id), "iat": int(time.time()), **changed}
        claims = {name: value for name, value in claims.items() if value is not None}
        return {"authorization": f"Bearer {signed(claims, self.keys[type][-36:])}"}

    def body(self, channel: Channel = Channel.EMAIL, **changed: Any) -> dict[str, Any]:
        """Give a good request's."""
        email = channel is Channel.EMAIL
        to = {"email_address": "someone@example.com"} if email else {"phone_number": "+16135550142"}
        template_id = str(self.email if email else self.sms)
        return {**to, "template_id": template_id, "personalisation": {"name": "Zoë"}, **changed}


def signed(claims: dict[str, Any], secret: str, algorithm: str = "HS256") -> str:
    """Sign claims of any kind, and by keys of any length: PyJWT would judge both first."""
    told = f"{part({'typ': 'JWT', 'alg': algorithm})}.{part(claims)}"
    digest = hmac.digest(secret.encode(), told.encode(), f"sha{algorithm[2:]}")
    return f"{told}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def part(value: object) -> str:
    """Write a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@dataclass
class Place:
    """All of it."""

    stack: Stack
    client: Client  # one in good order
    other: Client
    suspended: Client
    keyless: Client
    trial: Client
    mute: Client  # may use no channel
    filing: Client  # may send files
    short: Client  # of requests
    spent: list[Client]  # whose year or day is over, live and in trial
    revoked: list[str] = field(default_factory=list)
    archived: dict[Channel, UUID] = field(default_factory=dict)
    hidden: UUID = field(default_factory=uuid4)
    long: UUID = field(default_factory=uuid4)
    bare: dict[Channel, UUID] = field(default_factory=dict)  # nothing but a value
    senders: dict[Channel, UUID] = field(default_factory=dict)


class Maker:
    """Puts entries into a stack's directory."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def client(self, name: str, keys: bool = True, **changed: Any) -> Client:
        """Make a service with two templates and, but for one, a key of each type."""
        plenty = dict.fromkeys(
            ("rate_limit", "daily_email", "daily_sms", "annual_email", "annual_sms"), PLENTY
        )
        made = entries.new_service(self._installation, name, "siege", False, [GUEST])
        made = msgspec.structs.replace(
            made, **{**plenty, "permissions": frozenset({"email", "sms"}), **changed}
        )
        entries.put(self._installation, made)
        given = {
            type: entries.new_key(self._installation, made.id, f"{name}-{type}", type)[1]
            for type in (KeyType if keys else ())
        }
        return Client(
            made, given, self.template(made, Channel.EMAIL), self.template(made, Channel.SMS)
        )

    def template(
        self, service: Service, channel: Channel, body: str = "Hello ((name))", **changed: Any
    ) -> UUID:
        """Make a template; gives its id."""
        subject = "Hi ((name))" if channel is Channel.EMAIL else None
        made = entries.new_template(service.id, channel, f"siege {channel}", subject, body)
        made = msgspec.structs.replace(made, **changed)
        entries.put(self._installation, made)
        assert isinstance(made, Template)
        return made.id

    def sender(self, service: Service, channel: Channel) -> UUID:
        """Make a sender, or an address to reply to."""
        value = "reply@example.com" if channel is Channel.EMAIL else "+16135550100"
        made = Sender(id=uuid4(), service_id=service.id, channel=channel, value=value)
        entries.put(self._installation, made)
        return made.id

    def revoked(self, service: Service, since: timedelta) -> str:
        """Make a key that has an end."""
        made, given = entries.new_key(self._installation, service.id, "gone", KeyType.NORMAL)
        entries.put(self._installation, msgspec.structs.replace(made, expires_at=now() + since))
        return given


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def made(stack: Stack) -> Place:
    """Make everything, and come back once ingest knows of it."""
    maker, live, day = Maker(stack.installation), {"restricted": False}, timedelta(days=1)
    client = maker.client("siege")
    place = Place(
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
    place.revoked = [maker.revoked(service, -day), maker.revoked(service, day)]
    place.archived = {each: maker.template(service, each, archived=True) for each in Channel}
    place.hidden = maker.template(service, Channel.EMAIL, hidden=True)
    place.long = maker.template(service, Channel.SMS, LONG)
    place.bare = {each: maker.template(service, each, "((name))") for each in Channel}
    place.senders = {each: maker.sender(service, each) for each in Channel}
    # Whoever knows the last one knows all: they are in one partition.
    last = maker.client("last").authorization()
    wait(known(stack.url, last), "the directory in ingest")
    return place


def known(url: str, authorization: dict[str, str]) -> Callable[[], bool]:
    def ask() -> bool:
        return (
            httpx2.get(
                f"{url}/v2/templates", headers=authorization, timeout=ANSWER_SECONDS
            ).status_code
            == 200
        )

    return ask
