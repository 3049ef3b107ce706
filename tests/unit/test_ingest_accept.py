"""The checks of a request to send, in the order in which a client sees their errors."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from courant.contracts import Content, KeyType
from courant.directory.entries import Sender
from courant.topics import Channel, Lane
from support.ingest.world import (
    EMAIL_TEMPLATE,
    NUMBERS,
    RING,
    SERVICE,
    SMS_TEMPLATE,
    World,
    api_key,
    email,
    key,
    messages,
    service,
    sms,
    template,
)

EMAIL, SMS = "/v2/notifications/email", "/v2/notifications/sms"
NO_SUCH = "11111111-1111-4111-8111-111111111111"
NO_TIME = (
    "scheduled_for datetime format is invalid. It must be a valid ISO8601 date time format, "
    "https://en.wikipedia.org/wiki/ISO_8601"
)
LATER = (datetime.now(UTC) + timedelta(hours=100)).isoformat()
FILE = {"file": "YQ==", "filename": "a.pdf", "sending_method": "attach"}

INVALID: list[tuple[dict[str, Any], list[str]]] = [
    ({"reference": None}, ["reference None is not of type string"]),
    ({"reference": 7}, ["reference 7 is not of type string"]),
    ({"reference": "a\0"}, ["reference must not contain NUL characters"]),
    ({"template_id": 5}, ["template_id is not a valid UUID"]),
    ({"template_id": f"urn:uuid:{EMAIL_TEMPLATE}"}, ["template_id is not a valid UUID"]),
    ({"email_reply_to_id": None}, ["email_reply_to_id is not a valid UUID"]),
    ({"personalisation": None}, ["personalisation None is not of type object"]),
    ({"personalisation": ["it's"]}, ['personalisation ["its"] is not of type object']),
    ({"scheduled_for": 7}, ["scheduled_for 7 is not of type string, null"]),
    ({"scheduled_for": ""}, [NO_TIME]),
    ({"scheduled_for": "0001-01-01T00:00:00+14:00"}, [NO_TIME]),
    ({"scheduled_for": "2001-01-01"}, ["scheduled_for datetime cannot be in the past"]),
    (
        {"scheduled_for": LATER},
        ["scheduled_for datetime can only be up to 96 hours in the future"],
    ),
    (
        {"x": 1, "z": 2},
        ["Additional properties are not allowed (x, z were unexpected)"],
    ),
    (
        {"personalisation": {"f": {}}},
        [
            "personalisation file is a required property",
            "personalisation sending_method is a required property",
        ],
    ),
    (
        {"personalisation": {"f": {**FILE, "filename": "a"}}},
        ["personalisation a is too short"],
    ),
    (
        {"reference": 7, "email_address": "x", "template_id": "y", "z": 1},
        [
            "reference 7 is not of type string",
            "email_address Not a valid email address",
            "template_id is not a valid UUID",
            "Additional properties are not allowed (z was unexpected)",
        ],
    ),
]


@pytest.mark.parametrize(("more", "errors"), INVALID)
def test_all_errors_in_the_fields_are_reported_at_once(
    more: dict[str, Any], errors: list[str]
) -> None:
    answer = World().post(EMAIL, email(**more))
    assert answer.status_code == 400
    assert messages(answer) == errors
    assert {each["error"] for each in answer.json()["errors"]} == {"ValidationError"}


def test_missing_fields_are_reported_after_bad_values_and_before_unknown_fields() -> None:
    errors = [
        "reference 7 is not of type string",
        "phone_number is a required property",
        "template_id is a required property",
        "Additional properties are not allowed (email_address was unexpected)",
    ]
    assert messages(World().post(SMS, {"email_address": "a@b.ca", "reference": 7})) == errors


def test_all_errors_in_sizes_are_reported_together() -> None:
    values = {f"f{n}": FILE for n in range(11)} | {"name": "x" * 51_201}
    size = "Personalisation variables size of 51201 bytes is greater than allowed limit of 51200"
    assert messages(World().post(EMAIL, email(personalisation=values))) == [
        f"{size} bytes.",
        "File number exceed allowed limits of 10 with number of 11.",
    ]
    values = {"name": "x", "f": {**FILE, "file": "abc"}}
    assert messages(World().post(EMAIL, email(personalisation=values))) == [
        "f : Incorrect padding : Error decoding base64 field"
    ]
    big = {**FILE, "file": "A" * (4 * (10 * 1024 * 1024 // 3 + 1))}
    assert messages(World().post(EMAIL, email(personalisation={"f": big})))[0].startswith(
        "f : File size for a.pdf is 10485762 and greater"
    )


# Each entry breaks one check. Together they are all checks, in their order.
BREAKS: list[tuple[str, int, str]] = [
    ("content type", 415, "UnsupportedMediaType error"),
    ("schema", 400, "reference 7 is not of type string"),
    ("size", 400, "Personalisation variables size"),
    ("inactive", 403, "Service is suspended"),
    ("permission", 400, "Service is not allowed to send text messages"),
    ("rate", 429, "Exceeded rate limit for key type LIVE of 0 requests per 60 seconds"),
    ("template", 400, "Template not found"),
    ("deleted", 400, f"Template {SMS_TEMPLATE} has been deleted"),
    ("missing", 400, f"Missing personalisation for template ID {SMS_TEMPLATE}: name"),
    ("length", 400, "Content for template has a character count greater than the limit of 612"),
    ("annual", 429, "Exceeded annual SMS sending limit of 0 messages"),
    ("daily", 429, "Exceeded SMS daily sending limit of 0 fragments"),
    ("sender", 400, f"sms_sender_id {NO_SUCH} does not exist in database for service id {SERVICE}"),
    ("recipient", 400, "Can’t send to this recipient when service is in trial mode – see "),
    ("international", 400, "Cannot send to international mobile numbers"),
    ("files", 400, "Service is not allowed to send documents"),
]


@pytest.mark.parametrize("position", range(len(BREAKS)))
def test_only_the_first_failed_check_is_reported(position: int) -> None:
    """Break this check and all later ones. The answer must report this one."""
    broken = {name for name, _, _ in BREAKS[position:]} - {"recipient" if position > 13 else ""}
    world = World()
    changed: dict[str, Any] = {"restricted": "recipient" in broken, "permissions": set()}
    changed["permissions"] = frozenset({"email"} if "permission" in broken else {"email", "sms"})
    changed["active"] = "inactive" not in broken
    changed["rate_limit"] = 0 if "rate" in broken else 100
    changed["annual_sms"] = 0 if "annual" in broken else 100
    changed["daily_sms"] = 0 if "daily" in broken else 100
    world.change(service(**changed))
    long = "x" * 700 if "length" in broken else "x"
    world.change(
        template(
            Channel.SMS,
            archived="deleted" in broken,
            body=f"{long} ((name))" if "missing" in broken else long,
        )
    )
    abroad = "international" in broken
    body = sms(phone_number="+44 7911 123456" if abroad else "+16135550199", personalisation={})
    values = body["personalisation"]
    assert isinstance(values, dict)
    values["f"] = FILE
    if "size" in broken:
        values["x"] = "x" * 60_000
    if "schema" in broken:
        body["reference"] = 7
    if "template" in broken:
        body["template_id"] = NO_SUCH
    if "sender" in broken:
        body["sms_sender_id"] = NO_SUCH
    kind = "text/plain" if "content type" in broken else "application/vnd.api+json; charset=utf-8"
    answer = world.call(
        "POST", SMS, content=msgspec.json.encode(body), headers={"content-type": kind}
    )
    _, status, text = BREAKS[position]
    assert (answer.status_code, messages(answer)[0][: len(text)]) == (status, text)
    assert world.log.records == []


def test_the_record_holds_the_request_encrypted_and_a_hash_to_find_it() -> None:
    world = World()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)
    scheduled = f"{soon.replace(tzinfo=None).isoformat()}+01:00"
    world.change(template(Channel.EMAIL, lane=Lane.PRIORITY, version=4))
    answer = world.post(
        EMAIL,
        email(
            email_address=" Someone@Example.com",
            reference="r",
            scheduled_for=scheduled,
            personalisation={"n_ame": [1, None, ["x"]], "n": 2**70},
        ),
    )
    assert answer.status_code == 201
    assert answer.json()["scheduled_for"] == scheduled
    [record] = world.log.records
    assert record.topic == "inbox.email.priority"
    [stored] = world.log.notifications()
    assert record.key == stored.id.bytes == UUID(answer.json()["id"]).bytes
    assert (stored.id.version, stored.template_version, stored.reference) == (7, 4, "r")
    assert stored.scheduled_for == soon - timedelta(hours=1)
    assert b"omeone" not in record.value
    content = msgspec.json.decode(RING.decrypt(stored.sealed, owner=stored.id.bytes), type=Content)
    assert content.to == " Someone@Example.com"
    assert content.personalisation == {"n_ame": [1, None, "['x']"], "n": str(2**70)}
    world.post(EMAIL, email(email_address="someone@example.COM"))
    first, second = world.log.notifications()
    assert first.recipient_hash == second.recipient_hash


def test_a_201_shows_the_sending_domain_unless_the_service_has_one_of_its_own() -> None:
    world = World(courant_sending_domain="mail.example.ca")
    shown = world.post(EMAIL, email()).json()["content"]["from_email"]
    assert shown.endswith("@mail.example.ca")
    world.change(service(sending_domain="passports.example.ca"))
    shown = world.post(EMAIL, email()).json()["content"]["from_email"]
    assert shown.endswith("@passports.example.ca")


def test_a_simulated_recipient_is_answered_201_and_writes_no_record() -> None:
    world = World()
    world.change(service(restricted=True, daily_sms=0, daily_email=1))
    for body in (sms(phone_number="(613) 253-2222"), sms(phone_number="+16132532224")):
        answer = world.post(SMS, body)
        assert answer.status_code == 201
        assert UUID(answer.json()["id"]).version == 4
    simulated = email(email_address="Simulate-Delivered-2@notification.canada.ca")
    assert world.post(EMAIL, simulated).status_code == 201
    assert world.post(EMAIL, simulated).json()["errors"] == [
        {
            "error": "TrialServiceTooManyEmailRequestsError",
            "message": "Exceeded email daily sending limit of 1 messages",
        }
    ]
    assert world.log.records == []


def test_each_key_type_reaches_only_its_allowed_recipients() -> None:
    strangers, friends = "stranger@example.net", "FRIEND@example.com"
    for restricted, type, to, status in [
        (False, KeyType.NORMAL, strangers, 201),
        (False, KeyType.TEAM, strangers, 400),
        (False, KeyType.TEAM, friends, 201),
        (True, KeyType.NORMAL, strangers, 400),
        (True, KeyType.NORMAL, friends, 201),
        (True, KeyType.TEST, strangers, 201),
    ]:
        world = World()
        world.change(service(restricted=restricted))
        headers = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[type])}"}
        answer = world.post(EMAIL, email(email_address=to), **headers)
        assert answer.status_code == status, (restricted, type, to)
    world = World()
    headers = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[KeyType.TEAM])}"}
    assert world.post(SMS, sms(phone_number="613-555-0100"), **headers).status_code == 201


def test_a_sender_must_be_the_services_own_and_of_the_channel() -> None:
    world = World()
    chosen, other = UUID(int=(1 << 64) + 2), UUID(int=(1 << 64) + 3)
    world.change(Sender(id=chosen, service_id=SERVICE, channel=Channel.SMS, value="(613) 555-0111"))
    world.change(Sender(id=other, service_id=SERVICE, channel=Channel.EMAIL, value="a@b.ca"))
    answer = world.post(SMS, sms(sms_sender_id=str(chosen)))
    assert answer.json()["content"]["from_number"] == "+16135550111"
    assert world.log.notifications()[0].sender_id == chosen
    assert world.post(SMS, sms(sms_sender_id=str(other))).status_code == 400
    assert world.post(EMAIL, email(email_reply_to_id=str(other))).status_code == 201


def test_another_services_template_and_a_hidden_one_are_not_found() -> None:
    changes: list[dict[str, Any]] = [{"hidden": True}, {"service_id": UUID(int=5)}]
    for changed in changes:
        world = World()
        world.change(template(Channel.EMAIL, **changed))
        assert messages(world.post(EMAIL, email())) == ["Template not found"]


def test_an_unacknowledged_record_is_answered_503() -> None:
    world = World()
    world.log.stand_still(deadline_seconds=0)
    answer = world.post(EMAIL, email())
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["error"] == "ServiceUnavailableError"
    assert answer.headers["retry-after"] == "2"


def test_an_idempotency_key_gives_one_notification() -> None:
    world = World()
    headers = {"idempotency-key": "k-1"}
    first = world.post(EMAIL, email(), **headers)
    assert UUID(first.json()["id"]).version == 8
    again = world.post(EMAIL, email(), **headers)  # before the saver has stored the first
    assert again.json() == first.json()
    world.rows.save()
    world.change(template(Channel.EMAIL, version=2, body="another ((name)) ((more))"))
    again = world.post(EMAIL, email(), **headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = world.post(EMAIL, email(reference="x"), **headers)
    assert (other.status_code, other.json()["errors"][0]["error"]) == (409, "ConflictError")
    world.rows.works = False
    more = email(personalisation={"name": 1, "more": 2})
    assert world.post(EMAIL, more, **headers).status_code == 409
    assert len(world.log.notifications()) == 2
    assert len({each.id for each in world.log.notifications()}) == 1
    assert world.post(EMAIL, email(), **{"idempotency-key": "k" * 256}).status_code == 400


def test_another_key_of_the_service_shares_the_idempotency_keys() -> None:
    world = World()
    world.change(key(9))
    first = world.post(EMAIL, email(), **{"idempotency-key": "k"})
    headers = {"authorization": f"ApiKey-v1 {api_key(9)}", "idempotency-key": "k"}
    assert world.post(EMAIL, email(), **headers).json()["id"] == first.json()["id"]
