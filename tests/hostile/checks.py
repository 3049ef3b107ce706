"""At least one request for each check that ingest makes, so that no check is left to chance."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

from courant.contracts import KeyType
from courant.crypto import keyed_hash
from courant.topics import Channel
from hostile import credentials, job_checks
from hostile.contract_refusals import NO_FILES
from hostile.http_request import EMAIL, JSON, LIST, SMS, Dice, HttpRequest, encoded
from hostile.target import RATE, Client, Target, now

FILE = {"file": "YQ==", "filename": "a.pdf", "sending_method": "attach"}
MIB = 1024 * 1024
BAD_FILES: list[dict[str, Any]] = [
    {}, {**FILE, "file": 7}, {**FILE, "filename": "a"}, {**FILE, "filename": "a" * 256},
    {**FILE, "sending_method": "fax"}, {"file": "YQ==", "sending_method": "attach"}, {**FILE,
    "file": "abc"},
    FILE,
]  # fmt: skip
BAD_EMAILS: list[dict[str, Any]] = [
    {"reference": 7}, {"reference": "\0"}, {"email_address": 7}, {"email_address": "x"},
    {"template_id": "x"},
    {"email_reply_to_id": "x"}, {"email_reply_to_id": str(uuid4())}, {"scheduled_for": 7},
    {"scheduled_for": "x"}, {"scheduled_for": "2001-01-01"}, {"personalisation": 7}, {"x": 1},
    {"x": 1, "y": 2},
    {"personalisation": {}}, {"template_id": str(uuid4())},
    {"personalisation": {"name": "x" * 51_201}},
    {"personalisation": {f"f{n}": FILE for n in range(11)}},
]  # fmt: skip
BAD_TEXTS: list[dict[str, Any]] = [
    {"phone_number": number}
    for number in (7, ";", "x", "+491644", "+883510000000094", "+44 7911 123456")
] + [{"sms_sender_id": "x"}, {"sms_sender_id": str(uuid4())}]
QUERIES = (
    "status=x",
    "template_type=x",
    "include_jobs=x",
    "older_than=x",
    "reference=%00",
    "page_size=1",
)


def post(client: Client, path: str, body: Any, **more: Any) -> HttpRequest:
    headers = {
        **client.authorization(more.pop("type", KeyType.NORMAL)),
        **JSON,
        **more.pop("headers", {}),
    }
    return HttpRequest(
        "POST",
        path,
        headers,
        body if isinstance(body, bytes) else encoded(body),
        known=True,
        **more,
    )


def send(client: Client, channel: Channel = Channel.EMAIL, **changed: Any) -> HttpRequest:
    return post(client, f"{LIST}/{channel}", client.body(channel, **changed))


def get(client: Client, path: str) -> HttpRequest:
    return HttpRequest("GET", path, client.authorization(), known=True)


def forms(client: Client) -> Iterator[HttpRequest]:
    """Yield send requests; each breaks one rule of the request's form."""
    later = (now() + timedelta(hours=97)).isoformat()
    for changed in (*BAD_EMAILS, {"scheduled_for": later}):
        yield send(client, **changed)
    for changed in BAD_TEXTS:
        yield send(client, Channel.SMS, **changed)
    for file in BAD_FILES:
        yield send(client, personalisation={"name": "x", "f": file})
    for body in (b"", b"null", b"[]", b"{}", b"7"):
        yield post(client, EMAIL, body)
        yield post(client, SMS, body)
    yield post(client, EMAIL, b"{}", headers={"content-type": "text/plain"})


def addresses(target: Target) -> Iterator[HttpRequest]:
    """Yield requests to unknown paths and ids, and lists and previews with invalid parameters."""
    client = target.client
    for path in ("/nothing", LIST + "/x", f"{LIST}/{uuid4()}", f"/v2/template/{uuid4()}",
        "/v2/template/x",
                 "/v2/templates?type=fax"):  # fmt: skip
        yield get(client, path)
    for query in QUERIES:
        yield get(client, f"{LIST}?{query}")
    yield HttpRequest("DELETE", LIST)
    yield post(client, f"{LIST}/letter", b"{}")
    yield post(client, f"{LIST}/fax", b"{}")
    yield post(client, f"{LIST}/bulk", b"{}")
    for body in (
        {},
        {"personalisation": 7},
        {"personalisation": {"name": "x" * 51_201}},
        {"personalisation": {"name": 1}},
    ):
        yield post(client, f"/v2/template/{client.email}/preview", body)


def templates(target: Target) -> Iterator[HttpRequest]:
    """Yield sends with each kind of template that cannot be used."""
    client, name = target.client, {"name": " "}
    for template_id in (
        client.sms,
        target.archived[Channel.EMAIL],
        target.hidden,
        target.other.email,
    ):
        yield send(client, template_id=str(template_id))
    for template_id in (client.email, target.long, target.archived[Channel.SMS]):
        yield send(client, Channel.SMS, template_id=str(template_id))
    for channel in Channel:
        yield send(client, channel, template_id=str(target.bare[channel]), personalisation=name)
        yield send(client, channel)


def limits(target: Target) -> Iterator[HttpRequest]:
    """Yield sends that exceed each limit, or whose recipient is not on the safelist."""
    for client in (*target.spent, target.mute, target.trial, target.suspended):
        for channel in Channel:
            yield send(client, channel)
    yield send(target.client, email_address="Guest@Example.com")
    yield post(target.client, EMAIL, target.client.body(), type=KeyType.TEAM)
    for type in KeyType:
        for _ in range(RATE + 1):
            yield post(target.short, EMAIL, target.short.body(), type=type)
    body = target.filing.body(personalisation={"name": "x", "f": FILE | {"sending_method": "link"}})
    yield post(target.filing, EMAIL, body, allowed_503=(NO_FILES,))


def strangers(target: Target) -> Iterator[HttpRequest]:
    """Yield requests with each kind of credential that ingest must reject."""
    dice = Dice(0)
    for way in credentials.WAYS:
        for _ in range(60):
            yield HttpRequest("GET", LIST, way(target, dice), forged=True)
    yield HttpRequest("GET", LIST, forged=True)


def heartbeats(target: Target) -> Iterator[HttpRequest]:
    """Yield forged heartbeats of recovery, and correctly signed ones that cannot be read."""
    path = "/receipts/heartbeat"
    for body, signed in (
        (b'{"at": 1}', False),
        (b"x", True),
        (b"[]", True),
        (b'{"at": "\xff"}', True),
    ):
        hashed = keyed_hash(target.stack.installation.hash_key, b"heartbeat", body).hex()
        yield HttpRequest(
            "POST", path, {"x-courant-signature": hashed if signed else hashed[::-1]}, body
        )
    yield HttpRequest("POST", path, {}, b"{}")


def large(target: Target) -> Iterator[HttpRequest]:
    """Yield requests with bodies of sizes around the limits."""
    client = target.client
    big = {**FILE, "file": "A" * (4 * (10 * MIB // 3 + 1))}
    yield send(client, personalisation={"name": "x", "f": big})
    for size in (MIB, 2 * MIB, 3 * MIB, 5 * MIB, 14 * MIB):
        yield send(client, reference="r" * size)
        yield send(client, personalisation={"name": "x", "n" * size: "x"})
    for size in (15 * MIB + 1, 20 * MIB):
        yield post(client, EMAIL, b" " * size, large=True)
        yield HttpRequest("POST", "/receipts", {}, b"[" * size, large=True)
    yield post(client, EMAIL, b"[" * 14 * MIB)
    yield post(client, EMAIL, b'{"reference":' + b"[1]," * 3 * MIB)
    yield post(client, EMAIL, b'{"reference":[' + b"[1]," * MIB + b"1]}")


def repeated(target: Target) -> Iterator[HttpRequest]:
    """Yield sends that repeat an Idempotency-Key with another body, and keys of invalid length."""
    client = target.client
    for number in range(6):
        body = client.body(reference=f"twice {number % 2}")
        yield post(client, EMAIL, body, headers={"idempotency-key": "used twice"})
    for key in ("", "x" * 256):
        yield post(client, EMAIL, client.body(), headers={"idempotency-key": key})


def each(target: Target) -> Iterator[HttpRequest]:
    """Yield the requests of all checks except the large ones."""
    yield from forms(target.client)
    yield from addresses(target)
    yield from templates(target)
    yield from limits(target)
    yield from strangers(target)
    yield from heartbeats(target)
    yield from repeated(target)
    yield from job_checks.every(target)
