"""The directory: all services, keys, templates and senders, in memory, from one topic.

With it, no database is needed to accept a notification, to check a key or to render. Each change is
a record with a number that is never used twice. Readers keep the highest number of each key, so the
order and repetition of records do not matter. Secrets and personal data (API secrets, safelists)
are encrypted.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from courant import contracts
from courant.contracts import ENCODE, KeyType, Malformed, Time
from courant.lifecycle import VALID_HOURS
from courant.runbooks import Runbook
from courant.topics import Channel, Lane

log = logging.getLogger(__name__)

RETENTION_DAYS, RETENTION_DAYS_MIN, RETENTION_DAYS_MAX = 7, 3, 90
"""How long a service's content is kept: by default, at least and at most. Before three days a
notification may still wait to be sent."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One record of the directory. Of records with the same key, the highest number wins."""

    number: Annotated[int, Meta(ge=0)] = 0

    @property
    def key(self) -> str:
        """Return the key of the record in the topic."""
        raise NotImplementedError


class Service(Entry, frozen=True, kw_only=True, tag="service"):
    """A client of ours, and its permissions and limits."""

    id: UUID
    name: str
    active: bool = True
    restricted: bool = False  # in trial: may send only to its team and safelist
    permissions: frozenset[str] = frozenset({"email", "sms"})
    email_from: str = "notify"
    sending_domain: str | None = None
    prefix_sms: bool = True
    rate_limit: int = 1000  # requests in 60 s, for each key type
    daily_email: int = 10_000
    daily_sms: int = 1_500
    annual_email: int = 20_000_000
    annual_sms: int = 100_000
    # Days from acceptance, after which the content is emptied (recovery's task `content`).
    retention_days: Annotated[int, Meta(ge=RETENTION_DAYS_MIN, le=RETENTION_DAYS_MAX)] = (
        RETENTION_DAYS
    )
    safelist: bytes = msgspec.field(
        default=b"", name="guests"
    )  # encrypted JSON list of the team's and safelist's recipients, normalised

    @property
    def key(self) -> str:
        return f"service/{self.id}"


class ApiKey(Entry, frozen=True, kw_only=True, tag="key"):
    """An API key. Its secret is found by a keyed hash, and encrypted because HS256 needs it."""

    id: UUID
    service_id: UUID
    name: str
    type: KeyType
    secret: bytes
    secret_hash: bytes
    expires_at: Time | None = None  # a key with any expiry, even in the future, is revoked

    @property
    def key(self) -> str:
        return f"key/{self.id}"


class Template(Entry, frozen=True, kw_only=True, tag="template"):
    """One version of a template. Versions are never deleted, because rows refer to them."""

    id: UUID
    version: int
    service_id: UUID
    channel: Channel
    name: str
    subject: str | None
    body: str
    lane: Lane = Lane.NORMAL
    hidden: bool = False
    archived: bool = False
    created_at: Time
    updated_at: Time | None = None
    created_by: str = "operator"
    valid_for_hours: int = VALID_HOURS  # then an unsent notification expires
    resend_unknown: bool = True  # whether to send again after an unknown outcome

    @property
    def key(self) -> str:
        return f"template/{self.id}/{self.version}"


class Sender(Entry, frozen=True, kw_only=True, tag="sender"):
    """A reply-to address, or an SMS sender."""

    id: UUID
    service_id: UUID
    channel: Channel
    value: str
    default: bool = False
    archived: bool = False

    @property
    def key(self) -> str:
        return f"sender/{self.id}"


AnyEntry: TypeAlias = Service | ApiKey | Template | Sender
_decode: Callable[[bytes], AnyEntry] = msgspec.json.Decoder(
    Service | ApiKey | Template | Sender
).decode


def decode(value: bytes) -> AnyEntry:
    """Return the entry that these bytes encode; raises Malformed."""
    return contracts.read(_decode, value)


def encode(entry: Entry) -> bytes:
    """Return the entry's bytes."""
    return ENCODE(entry)


class Directory:
    """All entries, indexed for look-ups. Any thread may read it."""

    def __init__(self) -> None:
        self._entries: dict[str, AnyEntry] = {}
        self.services: dict[UUID, Service] = {}
        self.keys: dict[UUID, dict[UUID, ApiKey]] = defaultdict(dict)  # by service
        self.by_secret: dict[bytes, ApiKey] = {}
        self.templates: dict[UUID, dict[int, Template]] = {}
        self.senders: dict[UUID, dict[UUID, Sender]] = defaultdict(dict)  # by service
        self.short_lived: dict[tuple[UUID, int], int] = {}  # versions of templates, and their hours
        self.is_read = False  # whether the topic was read to its end once
        self.size = 0
        self.grown_at: datetime | None = None  # when `follow` last read an entry that was new

    @property
    def entries(self) -> Mapping[str, AnyEntry]:
        """Return the last version of every entry, by its key."""
        return self._entries.copy()

    def put(self, entry: AnyEntry) -> None:
        """Store an entry, unless a later one with its key is stored."""
        known = self._entries.get(entry.key)
        if known and known.number > entry.number:
            return
        self.size += known is None
        self._entries[entry.key] = entry
        match entry:
            case Service():
                self.services[entry.id] = entry
            case ApiKey():
                self.keys[entry.service_id] = {**self.keys[entry.service_id], entry.id: entry}
                self.by_secret[entry.secret_hash] = entry
            case Template():
                versions = self.templates.get(entry.id, {})
                self.templates[entry.id] = {**versions, entry.version: entry}
                if entry.valid_for_hours < VALID_HOURS:
                    version = entry.id, entry.version
                    self.short_lived = {**self.short_lived, version: entry.valid_for_hours}
            case Sender():
                senders = self.senders[entry.service_id]
                self.senders[entry.service_id] = {**senders, entry.id: entry}

    def template(self, id: UUID, version: int | None = None) -> Template | None:
        """Return a version of a template, the newest by default; None if there is no such one."""
        versions = self.templates.get(id)
        if not versions:
            return None
        return versions.get(max(versions) if version is None else version)

    def latest_templates(self, service_id: UUID) -> list[Template]:
        """Return the newest version of each of a service's templates."""
        newest = (versions[max(versions)] for versions in self.templates.copy().values())
        return [template for template in newest if template.service_id == service_id]

    def default_sender(self, service_id: UUID, channel: Channel) -> Sender | None:
        """Return the sender to use if the client names none; None if there is no default."""
        for sender in self.senders.get(service_id, {}).values():
            if sender.channel is channel and sender.default and not sender.archived:
                return sender
        return None


def apply(directory: Directory, value: bytes) -> None:
    """Apply one record to the directory.

    A record that cannot be read is logged and ignored, so that the last good one stays.
    """
    try:
        if value:
            directory.put(decode(value))
    except Malformed as error:
        fields = {"reason": str(error), "runbook": Runbook.DIRECTORY_UNREADABLE}
        log.error("directory record cannot be read", extra=fields)
