"""An ingest for tests: its app with a directory, a fake log, and fake rows and jobs."""

import asyncio
import base64
import time
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import jwt
import msgspec

from courant import crypto, recipients
from courant.contracts import KeyType
from courant.directory.entries import ApiKey, Directory, Sender, Service, Template
from courant.errors import Unavailable
from courant.topics import Channel
from ingest import app
from ingest.http.asgi import App
from ingest.settings import IngestSettings
from support.ingest.jobs import FakeJobs
from support.ingest.log import FakeLog
from support.ingest.rows import FakeRows

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
    """Return an API key as a person receives it."""
    return f"gcntfy-a key-{number}-{service}-{secret_of(number)}"


NUMBERS = {KeyType.NORMAL: 1, KeyType.TEAM: 2, KeyType.TEST: 3}


def service(**more: object) -> Service:
    guests = [recipients.comparable("email", "Friend@example.com"), "+16135550100"]
    sealed = RING.encrypt(msgspec.json.encode(guests), owner=SERVICE.bytes)
    given = Service(id=SERVICE, name="Conf", email_from="conf", safelist=sealed, number=1)
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


class World:
    """The app, with the fakes that it uses."""

    def __init__(self, **given: object) -> None:
        self.directory = Directory()
        self.directory.is_read = True  # as if its topic had been read to the end
        for entry in entries():
            self.directory.put(entry)
        self.log = FakeLog()
        self.jobs = FakeJobs()
        self.rows = FakeRows(self.log, jobs=self.jobs)
        self.fetched: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.app: App = app.build_app(
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
        """Put a newer version of an entry into the directory."""
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
    """Return the body of a valid request."""
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
    """Return the messages of an error."""
    return [each["message"] for each in response.json()["errors"]]
