"""Random requests: each family of them tests one part of the API."""

import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from courant import ids
from courant.topics import Channel
from hostile import credentials
from hostile.contract_refusals import NO_FILES
from hostile.http_request import (
    ADDRESSES,
    EMAIL,
    JSON,
    LIST,
    METHODS,
    NUMBERS_CALLED,
    SMS,
    TEXTS,
    TIMES,
    TYPES,
    Dice,
    HttpRequest,
    encoded,
)  # fmt: skip
from hostile.malformed_json import malformed
from hostile.target import Target, now

PATHS = [
    "", "/", "//", "/v2", "/v2/", "/v1/notifications", "/v2//notifications", "/v2/notifications/",
    "/%00",
    "/v2/notifications/bulk", "/v2/notifications/letter", "/v2/notifications/fax",
    "/v2/notifications/%00",
    "/v2/notifications/%ff%fe", "/v2/notifications/%zz", "/v2/notifications/%ed%a0%80",
    "/v2/notifications/..",
    "/v2/notifications/%2e%2e%2f", "/v2/notifications/a/b/c", "/v2/notifications;x=1",
    "/V2/NOTIFICATIONS",
    "/v2/template/%00", "/v2/template/x/version/y", "/v2/template/x/version/-1",
    "/v2/template/x/preview/",
    "/v2/received-text-messages", "/v2/openapi-en", "/v2/openapi-de", "/docs", "/openapi.json",
    "/metrics",
    "/_status", "/_status?simple=1", "/healthz", "/readyz", "/receipts", "/receipts/heartbeat",
    "/admin",
    "/.env", "/.git/config", "/v2/notifications/email%00", "/v2/notifications/email?x=%00",
    "/v2/templates",
    "/v2/notifications/" + "x" * 8_000, "/" + "a/" * 3_000, "/v2/template/" + "%41" * 2_000, "/*",
    "/\\..\\",
]  # fmt: skip
PARAMETERS = [
    "status", "template_type", "reference", "older_than", "include_jobs", "page_size", "page",
    "limit", "type",
    "status[]", "older_than[]", "", "\0", "__proto__", "é",
]  # fmt: skip
QUERY_VALUES = [
    "created", "failed", "delivered", "sms", "email", "letter", "true", "True", "1", "yes", "-1",
    "99999999",
    "{id}", "created,failed", *TEXTS,
]  # fmt: skip
QUERIES = ["%", "%zz=1", "=&=&", "&" * 500, "status", "status=%ff", "status=%ed%a0%80", "?" * 99,
           "a" * 6_000,
           "reference=%00", "older_than=%00", "reference=" + "%F0%9F%92%A9" * 400]  # fmt: skip
FILES = [{}, {"file": 7}, {"file": "YQ==", "sending_method": "fax"}, {"filename": []},
         {"sending_method": {}},
         {"file": "YQ", "filename": "a.pdf", "sending_method": "attach"}, {"file": {"file": {}}},
         {"file": "YQ==", "filename": "a\0.pdf", "sending_method": "link"}]  # fmt: skip


def sending(target: Target, dice: Dice) -> HttpRequest:
    """Return a send request in which up to three fields are odd."""
    channel = dice.one(list(Channel))
    body = target.client.body(channel, reference=dice.word())
    for _ in range(dice.one([0, 0, 1, 1, 1, 2, 3])):
        body.update(field(target, dice, channel))
    if dice.once_in(12):
        body.pop(dice.one(list(body)))
    headers = {**credentials.good(target.client, dice), **JSON}
    if dice.once_in(15):
        headers["content-type"] = dice.one(TYPES)
    if dice.once_in(6):
        headers["idempotency-key"] = idempotency_key(dice)
    return HttpRequest("POST", f"{LIST}/{channel}", headers, encoded(body), known=True)


def idempotency_key(dice: Dice) -> str:
    key = dice.one([dice.word(), f"again-{dice.number(20)}", "", " ", "é" * 100, "x" * 255,
                    "x" * 256, "\xff",
                    "x" * 4_000, "0", "null", "'", "a, b", "\t"])  # fmt: skip
    return str(key)


def field(target: Target, dice: Dice, channel: Channel) -> dict[str, Any]:
    """Return one field of a send request with an odd name or value."""
    to, of = (
        ("email_address", ADDRESSES)
        if channel is Channel.EMAIL
        else ("phone_number", NUMBERS_CALLED)
    )
    sender = "email_reply_to_id" if channel is Channel.EMAIL else "sms_sender_id"
    kind = dice.number(10)
    if kind == 0:
        return {to: dice.one(of) if dice.once_in(2) else dice.text()}
    if kind == 1:
        return {to: dice.value()}
    if kind in (2, 3, 4):
        return {"personalisation": personalisation(dice)}
    if kind == 5:
        return {"reference": dice.value() if dice.once_in(2) else dice.one(TEXTS)}
    if kind == 6:
        soon = (now() + timedelta(minutes=dice.number(12_000) - 3_000)).isoformat()
        return {"scheduled_for": soon if dice.once_in(2) else dice.one(TIMES)}
    if kind == 7:
        return {sender: dice.id(str(target.senders[channel]))}
    if kind == 8:
        known = [target.other.email, target.client.sms, target.client.email, target.hidden,
                 *target.archived.values(),
                 *target.bare.values(), target.long, uuid4()]  # fmt: skip
        template_id = str(dice.one(known))
        return {"template_id": dice.id(template_id) if dice.once_in(3) else template_id}
    return {dice.text(): dice.value()}


def personalisation(dice: Dice) -> Any:
    """Return personalisation with values of any JSON type and of sizes around the limits."""
    kind = dice.number(8)
    if kind == 0:
        return dice.value()
    if kind == 1:
        return {"name": dice.one(FILES)}
    if kind == 2:
        return {
            "name": dice.one(["x", "€", "😀", "\n"]) * dice.one([300, 613, 25_000, 51_200, 51_201])
        }
    if kind == 3:
        return {
            dice.one(["NAME", "n_a-m e", " name", "name\0"]): dice.value(),
            "name": dice.value(),
        }
    if kind == 4:
        return {"name": [dice.value() for _ in range(dice.one([0, 1, 40]))]}
    return {"name": dice.value(), dice.text(): dice.value()}


def malformed_send(target: Target, dice: Dice) -> HttpRequest:
    """Return a request whose body is usually not valid JSON."""
    channel = dice.one(list(Channel))
    body = malformed(encoded(target.client.body(channel)), dice)
    path = f"/v2/template/{target.client.email}/preview" if dice.once_in(6) else f"{LIST}/{channel}"
    headers = {**credentials.good(target.client, dice), **JSON}
    return HttpRequest("POST", path, headers, body, known=True)


def preview(target: Target, dice: Dice) -> HttpRequest:
    template = dice.one(
        [
            target.client.email,
            target.client.sms,
            target.other.email,
            target.hidden,
            *target.archived.values(),
        ]
    )
    body = encoded({"personalisation": personalisation(dice), dice.text(): dice.value()})
    id = dice.id(str(template)) if dice.once_in(5) else template
    path = f"/v2/template/{quote(str(id), safe='')}/preview"
    return HttpRequest(
        "POST", path, {**credentials.good(target.client, dice), **JSON}, body, known=True
    )


def listing(target: Target, dice: Dice) -> HttpRequest:
    """Return a request for a list with odd filters."""
    pairs = [(dice.one(PARAMETERS), dice.one(QUERY_VALUES).replace("{id}", str(uuid4())))
             for _ in range(dice.one([0, 1, 1, 2, 3, 250]))]  # fmt: skip
    query = dice.one(QUERIES) if dice.once_in(5) else urlencode(pairs)
    path = dice.one([LIST, LIST, LIST, "/v2/templates", "/v2/received-text-messages"])
    return HttpRequest("GET", f"{path}?{query}", credentials.good(target.client, dice), known=True)


def reading(target: Target, dice: Dice) -> HttpRequest:
    """Return a read of an id that does not exist.

    The id is at least a day old or random, so that ingest does not have to wait for its row.
    """
    old = ids.new(now() - timedelta(days=dice.number(9_000) + 1)) if dice.once_in(2) else uuid4()
    id = quote(str(dice.id(str(old)) if dice.once_in(2) else old), safe="")
    kind = dice.one([LIST, LIST, "/v2/template"])
    more = dice.one(["", "", f"/version/{dice.one([0, 1, 2, 999_999_999, '１', 'x', -1, 10**12])}"])
    path = f"{kind}/{id}" + (more if kind != LIST else "")
    return HttpRequest(
        dice.one(["GET", "GET", "HEAD"]), path, credentials.good(target.client, dice), known=True
    )


def strangers(target: Target, dice: Dice) -> HttpRequest:
    """Return a request with credentials that ingest must reject."""
    headers = {**credentials.bad(target, dice), **JSON}
    path = dice.one(
        [
            EMAIL,
            SMS,
            LIST,
            "/v2/templates",
            f"/v2/template/{target.client.email}",
            f"{LIST}/{uuid4()}",
        ]
    )
    if path in (EMAIL, SMS):
        return HttpRequest(
            "POST",
            path,
            headers,
            encoded(target.client.body(Channel(path[len(LIST) + 1 :]))),
            forged=True,
        )
    return HttpRequest("GET", path, headers, forged=True)


def elsewhere(target: Target, dice: Dice) -> HttpRequest:
    """Return a request to an odd path, often with an unknown method or odd headers."""
    path = dice.one(PATHS)
    known = dice.once_in(2)
    headers = credentials.good(target.client, dice) if known else {}
    if dice.once_in(3):
        headers |= {"host": dice.one(["evil.example", "x" * 300, "a b", "é", "[::1]"]),
                                      "x-forwarded-proto": "javascript",
                    "x-request-id": dice.one(["x" * 999, "é", "a b"]),
                    "x-b3-traceid": "y" * 5_000}  # fmt: skip
    body = b"{}" if dice.once_in(4) else b""
    return HttpRequest(dice.one(METHODS), path if path.startswith("/") else "/", headers, body)


def filing(target: Target, dice: Dice) -> HttpRequest:
    """Return an email with files, sent by a service that may send files."""
    file = {
        "file": base64.b64encode(dice.text().encode()).decode(),
        "filename": "a.pdf",
        "sending_method": "link",
    }
    body = target.filing.body(personalisation={"name": dice.one([file, *FILES]), "more": file})
    headers = {**target.filing.authorization(), **JSON}
    return HttpRequest("POST", EMAIL, headers, encoded(body), known=True, allowed_503=(NO_FILES,))


FAMILIES: tuple[tuple[int, Callable[[Target, Dice], HttpRequest]], ...] = (
    (40, sending), (17, malformed_send), (5, preview), (10, listing), (7, reading), (12, strangers),
    (8, elsewhere), (1, filing),
)  # fmt: skip


def draw(target: Target, dice: Dice, number: int) -> Iterator[HttpRequest]:
    """Yield `number` requests; each family's share is its weight."""
    weights, families = zip(*FAMILIES, strict=True)
    for family in dice.random.choices(families, weights, k=number):
        yield family(target, dice)
