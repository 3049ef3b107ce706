"""At least one request for each check of bulk sends, so that no check is left to chance."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from courant.contracts import KeyType
from courant.topics import Channel
from hostile.http_request import LIST, HttpRequest, encoded
from hostile.target import Client, Target

BULK, JOBS = f"{LIST}/bulk", "/v2/jobs"
EMAIL, SMS = Channel.EMAIL, Channel.SMS
HEADER = {EMAIL: "email address", SMS: "phone number"}
KIND = "multipart/form-data; boundary=b"
GOOD = "email address,name\na@example.com,x\n"
SIMULATED, REAL, ABROAD = "+16132532222", "+16135550142", "+447911123456"

FORMS: list[dict[str, Any]] = [
    {"name": 7}, {"name": "\0"}, {"name": "x" * 1001}, {"rows": 7}, {"rows": []},
    {"rows": [["x"]] * 50_002}, {"csv": 7}, {"reply_to_id": "x"}, {"reply_to_id": str(uuid4())},
    {"template_id": str(uuid4())}, {"csv": GOOD}, {"rows": [["x"], 7]},
    {"rows": [["email address", "name"], 7]}, {"rows": [["email address", "name"], [["x"]]]},
    {"rows": [["email address", "name"], ["x" * 131_073]]}, {"rows": [["x"] * 1_001, []]},
    {"rows": [["email address"], ["a@b.ca"]]},
    {"rows": [["email address", "Email_Address", "name"], ["a@b.ca"]]},
    {"rows": [["email address", "name"], ["x", ""]]},
]  # fmt: skip
TEXTS = (
    'email address,na"me\n"x',
    '"email address',
    GOOD + '"x\n',
    GOOD + "a@b.ca,x\n" * 50_000,
    GOOD.replace("\n", "\r"),
)


def part(name: str, value: bytes) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + value + b"\r\n"


def post(
    client: Client, path: str, body: Any, kind: str, type: KeyType = KeyType.NORMAL
) -> HttpRequest:
    headers = {**client.authorization(type), "content-type": kind}
    content = body if isinstance(body, bytes) else encoded(body)
    return HttpRequest("POST", path, headers, content, known=True)


def bulk(
    client: Client,
    *recipients: str,
    channel: Channel = EMAIL,
    type: KeyType = KeyType.NORMAL,
    **more: Any,
) -> HttpRequest:
    rows = [[HEADER[channel], "name"], *([to, "x"] for to in recipients or ("a@b.ca",))]
    template_id = str(client.email if channel is EMAIL else client.sms)
    body = {"template_id": template_id, "name": "a job", "rows": rows, **more}
    return post(client, BULK, body, "application/json", type)


def every(target: Target) -> Iterator[HttpRequest]:
    """Yield the requests of all checks of bulk sends."""
    client = target.client
    for changed in FORMS:
        yield bulk(client, **changed)
    yield post(client, BULK, {}, "application/json")
    for text in TEXTS:
        body = {"template_id": str(client.email), "name": "a job", "csv": text}
        yield post(client, BULK, body, "application/json")
    yield bulk(client, "x@example.com", type=KeyType.TEAM)
    yield bulk(target.trial)
    yield bulk(client, REAL, channel=SMS, template_id=str(target.long))
    yield bulk(client, SIMULATED, REAL, channel=SMS)
    yield bulk(client, ABROAD, channel=SMS)
    for spent in target.spent:
        yield bulk(spent)
        yield bulk(spent, REAL, channel=SMS)
    yield from uploads(client)


def uploads(client: Client) -> Iterator[HttpRequest]:
    """Yield uploads; each breaks one rule of the multipart form."""
    template, file = part("template_id", str(client.email).encode()), part("file", GOOD.encode())
    name, end = part("name", b"x"), b"--b--\r\n"
    for body in (
        b"", b"x", end, template + end, file + template + end, template + file + name + end,
        template + name + file + file + end, name + name + end, part("name", b"\xff") + end,
        template + file + end, template + name + file,
        template + name + part("file", b"\xff") + end,
    ):  # fmt: skip
        yield post(client, JOBS, body, KIND)
    yield post(client, JOBS, b"{}", "application/json")
