"""An ingest for tests: a directory from small numbers, a log and rows that behave, its app."""

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import jwt
import msgspec

from courant import crypto, recipients
from courant.contracts import KeyType, Notification, Seal
from courant.directory.entries import ApiKey, Directory, Sender, Service, Template
from courant.errors import Unavailable
from courant.topics import Channel
from ingest import app
from ingest.accept.idempotency import FirstJob, FirstNotification
from ingest.http.asgi import App
from ingest.read.store import Chosen, Missing
from ingest.read.views import NotificationRow
from ingest.settings import IngestSettings
from support.ingest.jobs import FakeJobs
from support.ingest.log import FakeLog

SEAL_KEYS = "k1:" + base64.b64encode(b"k" * 32).decode()
HASH_KEY = "a hash key for tests"
BASE = "https://api.example.ca"
TOPIC_ARN = "arn:aws:sns:ca-central-1:123456789012:courant-receipts"
MADE_AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

SERVICE = UUID("5e000000-0000-4000-8000-000000000001")
EMAIL_TEMPLATE = UUID("7e000000-0000-4000-8000-000000000001")
SMS_TEMPLATE = UUID("7e000000-0000-4000-8000-000000000002")
RING = crypto.key_ring(SEAL_KEYS)


def settings(**more: object) -> IngestSettings:
    return IngestSettings(
        **{
            "courant_environment": "local",
            "kafka_bootstrap_servers": "127.0.0.1:1",
            "courant_seal_keys": SEAL_KEYS,
            "courant_hash_key": HASH_KEY,
            "database_url": "postgresql://nobody:x@127.0.0.1/none",
            "receipts_topic_arns": TOPIC_ARN,
            **more,
        }  # type: ignore[arg-type]  # read as the environment's texts are
    )


def secret_of(number: int) -> str:
    return str(UUID(int=(0x5EC << 64) + number))


def key(number: int, type: KeyType = KeyType.NORMAL, service: UUID = SERVICE) -> ApiKey:
    id, secret = UUID(int=(0x6E << 64) + number), secret_of(number).encode()
    return ApiKey(
        id=id,
        service_id=service,
        name=f"a key-{number}",
        type=type,
        secret=RING.encrypt(secret, owner=id.bytes),
        secret_hash=crypto.keyed_hash(HASH_KEY.encode(), b"secret", secret),
    )


def api_key(number: int, service: UUID = SERVICE) -> str:
    """Give a key as a person is given it."""
    return f"gcntfy-a key-{number}-{service}-{secret_of(number)}"


NUMBERS = {KeyType.NORMAL: 1, KeyType.TEAM: 2, KeyType.TEST: 3}


def service(**more: object) -> Service:
    guests = [recipients.comparable("email", "Friend@example.com"), "+16135550100"]
    sealed = RING.encrypt(msgspec.json.encode(guests), owner=SERVICE.bytes)
    given = Service(id=SERVICE, name="Conf", email_from="conf", guests=sealed, number=1)
    return msgspec.structs.replace(given, **more)


def template(channel: Channel, **more: object) -> Template:
    email = channel is Channel.EMAIL
    given = Template(
        id=EMAIL_TEMPLATE if email else SMS_TEMPLATE,
        version=1,
        service_id=SERVICE,
        channel=channel,
        name=f"conf {channel}",
        subject="Hi" if email else None,
        body="Hello ((name))",
        created_at=MADE_AT,
        number=1,
    )
    return msgspec.structs.replace(given, **more)


def entries() -> list[Service | ApiKey | Template | Sender]:
    sender = UUID(int=(0x5E << 64) + 1)
    return [
        service(permissions=frozenset({"email", "sms", "international_sms"})),
        *(key(number, type) for type, number in NUMBERS.items()),
        template(Channel.EMAIL),
        template(Channel.SMS),
        Sender(id=sender, service_id=SERVICE, channel=Channel.SMS, value="CANADA.CA", default=True),
    ]


@dataclass
class FakeRows:
    """Postgres as ingest sees it: what was saved of the log, and nothing while it is away."""

    log: FakeLog
    works: bool = True
    saved: int = 0  # so many of the log's records are rows
    rows: dict[UUID, tuple[Notification, NotificationRow]] = field(default_factory=dict)

    def save(self) -> None:
        for each in self.log.notifications()[self.saved :]:
            self.rows.setdefault(each.id, (each, row(each)))
            self.saved += 1

    def _ask(self) -> None:
        if not self.works:
            raise Unavailable("Postgres: away")

    async def first(self, service_id: UUID, key_hash: bytes) -> FirstNotification | None:
        if not self.works:
            return None
        for each, _ in self.rows.values():
            if (each.service_id, each.idempotency_key) == (service_id, key_hash):
                assert each.body_hash
                return FirstNotification(each.id, each.body_hash, each.template_version)
        return None

    async def first_job(self, service_id: UUID, key_hash: bytes) -> FirstJob | None:
        if not self.works:
            return None
        return next(
            (
                first_job(each)
                for each in self.log.seals()
                if (each.service_id, each.idempotency_key) == (service_id, key_hash)
            ),
            None,
        )

    async def notification(self, service_id: UUID, id: UUID) -> NotificationRow | Missing:
        if id.version not in (7, 8):
            return Missing(certain=True)
        self._ask()
        found = self.rows.get(id)
        if found and found[0].service_id == service_id:
            return found[1]
        return Missing(certain=self.saved == len(self.log.notifications()))

    async def page(self, chosen: Chosen) -> Sequence[NotificationRow]:
        self._ask()
        if chosen.older_than and chosen.older_than not in self.rows:
            return []
        found = [
            row
            for each, row in self.rows.values()
            if each.service_id == chosen.service_id
            and each.key_type is chosen.key_type
            and (chosen.states is None or (row.state, row.channel) in chosen.states)
            and (chosen.channels is None or row.channel in chosen.channels)
            and (chosen.reference is None or row.reference == chosen.reference)
            and (chosen.older_than is None or row.id < chosen.older_than)
            and (chosen.with_jobs or each.job_id is None)
        ]
        return sorted(found, key=lambda row: row.id, reverse=True)[:250]

    async def version(self) -> str | None:
        return "0001" if self.works else None

    def move(self, id: UUID, **changed: object) -> None:
        """Change a row, as the saver would."""
        notification, row = self.rows[id]
        self.rows[id] = notification, replace(row, **changed)  # type: ignore[arg-type]


def first_job(each: Seal) -> FirstJob:
    assert each.body_hash
    return FirstJob(
        id=each.job_id,
        body_hash=each.body_hash,
        rows=each.rows,
        key_id=each.key_id,
        key_type=each.key_type,
        template_id=each.template_id,
        template_version=each.template_version,
        channel=each.channel,
        sender_id=each.sender_id,
        name=each.name,
        accepted_at=each.accepted_at,
        scheduled_for=each.scheduled_for,
    )


def row(each: Notification) -> NotificationRow:
    return NotificationRow(
        id=each.id,
        template_id=each.template_id,
        template_version=each.template_version,
        channel=each.channel,
        reference=each.reference,
        sealed=each.sealed,
        accepted_at=each.accepted_at,
        scheduled_for=each.scheduled_for,
        state="created",
        state_at=each.accepted_at,
        sent_at=None,
        reason=None,
        response=None,
    )


class World:
    """The app, and what it stands on."""

    def __init__(self, **given: object) -> None:
        self.directory = Directory()
        self.directory.is_read = True  # as if its topic had been read to the end
        for entry in entries():
            self.directory.put(entry)
        self.log = FakeLog()
        self.rows = FakeRows(self.log)
        self.jobs = FakeJobs()
        self.fetched: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.app: App = app.app(
            settings(**given),
            self.directory,
            self.log,
            self.rows,
            self.jobs,
            self._fetch,
        )

    async def _fetch(self, url: str) -> bytes:
        self.fetches.append(url)
        if url not in self.fetched:
            raise Unavailable("fetching: HTTP 404")
        return self.fetched[url]

    def change(self, entry: Service | ApiKey | Template | Sender) -> None:
        """Put a later version into the directory."""
        known = max((each.number for each in self.directory._entries.values()), default=0)
        self.directory.put(msgspec.structs.replace(entry, number=known + 1))

    def client(self) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.app)  # type: ignore[arg-type]  # a scope is only read
        return httpx2.AsyncClient(transport=transport, base_url=BASE)

    def call(self, method: str, path: str, **more: object) -> httpx2.Response:
        """Call with a live key, unless headers say otherwise."""
        headers = {"authorization": f"ApiKey-v1 {api_key(1)}", **more.pop("headers", {})}  # type: ignore[dict-item]

        async def ask() -> httpx2.Response:
            async with self.client() as client:
                return await client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]

        return asyncio.run(ask())

    def post(self, path: str, json: object, **headers: str) -> httpx2.Response:
        return self.call("POST", path, json=json, headers=headers)


def token(number: int = 1, issuer: object = str(SERVICE), **claims: object) -> str:
    """Make a JWT as clients do."""
    given = {"iss": issuer, "iat": int(time.time()), **claims}
    return jwt.encode({k: v for k, v in given.items() if v is not None}, secret_of(number), "HS256")


def email(**more: object) -> dict[str, object]:
    """Give the body of a good request."""
    return {
        "email_address": "a@example.com",
        "template_id": str(EMAIL_TEMPLATE),
        "personalisation": {"name": "Zoë"},
        **more,
    }


def sms(**more: object) -> dict[str, object]:
    return {
        "phone_number": "+16135550199",
        "template_id": str(SMS_TEMPLATE),
        "personalisation": {"name": "Zoë"},
        **more,
    }


def messages(response: httpx2.Response) -> list[str]:
    """Give what an error says."""
    return [each["message"] for each in response.json()["errors"]]
