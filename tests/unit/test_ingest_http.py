"""The HTTP layer: paths, methods, headers and limits. No client's input makes ingest fail."""

import asyncio
import json
import logging
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from courant import ids
from courant.contracts import KeyType
from courant.lifecycle import State
from courant.topics import Channel
from ingest.http.request_log import RequestIdFilter, SparseWarning, request_id
from ingest.read import views
from support.ingest.world import (
    BASE,
    MADE_AT,
    NUMBERS,
    World,
    api_key,
    email,
    messages,
    sms,
    template,
)
from support.waiting import WAIT_SECONDS

URL_NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check "
    "your spelling and try again."
)
WORLD = World(ingest_docs_origins="https://docs.example.ca")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/notifications/email/", 404),
        ("GET", "/v2/template/x/version/y", 404),
        ("DELETE", "/v2/notifications", 405),
        ("PUT", "/v2/notifications/sms", 405),
        ("GET", "/receipts", 405),
    ],
)
def test_paths_and_methods_are_checked_before_authentication(
    method: str, path: str, status: int
) -> None:
    answer = WORLD.call(method, path, headers={"authorization": ""})
    assert (answer.status_code, answer.json()["result"]) == (status, "error")
    assert ("allow" in answer.headers) == (status == 405)


def test_an_unknown_type_is_rejected_after_authentication_and_json() -> None:
    assert WORLD.post("/v2/notifications/fax", {}).json()["message"] == URL_NOT_FOUND
    fax = "/v2/notifications/fax"
    assert WORLD.call("POST", fax, headers={"authorization": ""}).status_code == 401
    assert WORLD.call("POST", fax, content="x").status_code == 415
    expected = ["Service is not allowed to send letters"]
    assert messages(WORLD.post("/v2/notifications/letter", {})) == expected
    assert messages(WORLD.call("GET", "/v2/notifications/email")) == [
        "notification_id is not a valid UUID"
    ]


def test_every_answer_has_the_usual_headers() -> None:
    headers = {"x-b3-traceid": "t", "x-request-id": "r-1", "origin": "https://docs.example.ca"}
    answer = WORLD.post("/v2/notifications/email", email(), **headers)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-headers"] == "Content-Type,Authorization"
    assert answer.headers["access-control-allow-methods"] == "GET,PUT,POST,PATCH,DELETE"
    assert answer.headers["access-control-allow-origin"] == "https://docs.example.ca"
    assert answer.headers["x-b3-traceid"] == "t"
    assert answer.headers["x-b3-spanid"] == "None"
    assert answer.headers["x-request-id"] == "r-1"
    other = WORLD.call(
        "GET", "/", headers={"origin": "https://evil.example", "x-request-id": "a b"}
    )
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["x-request-id"] not in ("", "a b")


def test_options_needs_no_key() -> None:
    answer = WORLD.call("OPTIONS", "/v2/notifications/email", headers={"authorization": ""})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["allow"] == "POST, GET, HEAD, OPTIONS"


def test_uris_name_the_host_that_was_called() -> None:
    headers = {"host": "notify.example.ca", "x-forwarded-proto": "https"}
    answer = WORLD.post("/v2/notifications/email", email(), **headers).json()
    assert answer["uri"] == f"https://notify.example.ca/v2/notifications/{answer['id']}"
    assert answer["template"]["uri"].startswith("https://notify.example.ca/services/")


@pytest.mark.parametrize(
    "path", ["/", "/_status", "/_status?simple=1", "/docs", "/openapi.json",
              "/v2/openapi-en", "/v2/openapi-fr"],
)  # fmt: skip
def test_status_and_documents_need_no_key(path: str) -> None:
    answer = WORLD.call("GET", path, headers={"authorization": ""})
    assert answer.status_code == 200
    head = WORLD.call("HEAD", path, headers={"authorization": ""})
    assert (head.status_code, head.content) == (200, b"")


def test_the_description_names_every_field_that_is_checked() -> None:
    paths = WORLD.call("GET", "/openapi.json").json()["paths"]
    body = paths["/v2/notifications/sms"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) >= {"phone_number", "sms_sender_id", "reference"}
    assert body["schema"]["required"] == ["phone_number", "template_id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_the_public_port_has_no_paths_for_health_and_metrics(method: str, path: str) -> None:
    answer = WORLD.call(method, path)
    nowhere = WORLD.call(method, "/nowhere")
    assert (answer.status_code, answer.content) == (404, nowhere.content)
    assert method == "HEAD" or answer.json()["result"] == "error"


def test_requests_beyond_the_limit_in_flight_are_rejected_but_status_is_not() -> None:
    world = World(ingest_in_flight_max=3)

    async def crowd() -> list[int]:
        world.log.stand_still()
        headers = {"authorization": f"ApiKey-v1 {api_key(1)}"}
        async with world.client() as client:
            path = "/v2/notifications/email"
            waiting = [
                asyncio.create_task(client.post(path, json=email(), headers=headers))
                for _ in range(3)
            ]
            while len(world.log.waiting) < 3:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(WAIT_SECONDS):
                refused = await client.post(path, json=email(), headers=headers)
            alive = await client.get("/_status")
            world.log.go_on()
            answers = [refused, alive, *await asyncio.gather(*waiting)]
        return [each.status_code for each in answers]

    assert asyncio.run(crowd()) == [503, 200, 201, 201, 201]


def test_a_body_that_is_too_large_is_rejected_before_it_is_read() -> None:
    world = World(ingest_body_bytes_max=2000)
    big = email(personalisation={"name": "x" * 3000})
    assert world.post("/v2/notifications/email", big).status_code == 413

    async def parts() -> Any:
        for _ in range(3):
            yield b"x" * 1000

    headers = {"content-type": "application/json"}
    answer = world.call("POST", "/v2/notifications/email", content=parts(), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": NaN}', b'"\xff"', b"[" * 90_000, b'{"reference": "\\ud800"}']
)
def test_a_body_that_is_not_json_is_rejected(body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = WORLD.call("POST", "/v2/notifications/email", content=body, headers=headers)
    assert messages(answer)[0].startswith("Error decoding arguments")


def test_an_internal_error_reveals_nothing_that_the_client_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()

    async def fail(*_: object) -> None:
        raise RuntimeError("Zoë")

    world.log.put = fail  # type: ignore[method-assign]  # a fault of ours
    with caplog.at_level(logging.ERROR):
        answer = world.post("/v2/notifications/email", email())
    expected = [{"error": "RuntimeError", "message": "Internal server error"}]
    assert (answer.status_code, answer.json()["errors"]) == (500, expected)
    [line] = caplog.records
    assert line.getMessage() == "request failed"
    assert "Zoë" not in json.dumps(line.__dict__, default=str, ensure_ascii=False)


def test_a_log_line_of_a_request_has_its_id() -> None:
    request_id.set("r-7")
    line = logging.makeLogRecord({})
    assert RequestIdFilter().filter(line)
    assert line.__dict__["request_id"] == "r-7"
    request_id.set("")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = [*email(), *sms(), "reference", "scheduled_for", "sms_sender_id", "email_reply_to_id"]


@settings(max_examples=150)
@given(
    st.sampled_from(["email", "sms"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES),
    st.dictionaries(st.sampled_from(["name", "f"]), JSON_VALUES),
)
def test_no_body_makes_ingest_fail(
    channel: str, body: dict[str, Any], values: dict[str, Any]
) -> None:
    good = email() if channel == "email" else sms()
    for sent in ({**good, **body}, {**good, "personalisation": {"name": "x", **values}}):
        try:
            content = json.dumps(sent).encode()
        except UnicodeEncodeError:
            continue
        headers = {"content-type": "application/json"}
        path = f"/v2/notifications/{channel}"
        answer = WORLD.call("POST", path, content=content, headers=headers)
        assert answer.status_code < 500, answer.text


@settings(max_examples=100)
@given(st.binary(max_size=60), st.text(max_size=30), st.sampled_from(["Bearer ", "ApiKey-v1 ", ""]))
def test_no_query_path_or_token_makes_ingest_fail(query: bytes, path: str, scheme: str) -> None:
    place = httpx2.URL(f"{BASE}/v2/notifications", params={"status": path})
    for url in (place, f"/v2/template/{httpx2.QueryParams({'x': path})}"):
        assert WORLD.call("GET", str(url)).status_code < 500
    raw = {"authorization": scheme.encode() + query.replace(b"\n", b"").replace(b"\r", b"")}
    assert WORLD.call("GET", "/v2/notifications", headers=raw).status_code in (200, 401, 403)


def test_the_owner_reads_its_notification_in_every_state() -> None:
    world = World()
    id = world.post("/v2/notifications/sms", sms(reference="r")).json()["id"]
    assert world.call("GET", f"/v2/notifications/{id}").status_code == 503
    world.rows.save()
    answer = world.call("GET", f"/v2/notifications/{id}")
    assert list(answer.json()) == [
        "id", "reference", "email_address", "phone_number",
        "line_1", "line_2", "line_3", "line_4", "line_5", "line_6", "postcode",
        "type", "status", "status_description", "provider_response", "template", "body",
        "subject", "created_at", "created_by_name", "sent_at", "completed_at", "scheduled_for",
        "postage",
    ]  # fmt: skip
    shown = answer.json()
    assert (shown["status"], shown["phone_number"]) == ("created", "+16135550199")
    assert shown["body"] == "Hello Zoë"
    assert (shown["subject"], shown["completed_at"]) == (None, None)
    for state, status, description, done in [
        ("claimed", "sending", "In transit", False),
        ("sending", "sent", "Sent", True),
        ("delivered", "delivered", "Delivered", True),
        ("permanent-failure", "permanent-failure", "No such number", True),
        ("provider-failure", "provider-failure", "No such number", False),
    ]:
        world.rows.move(world.log.notifications()[0].id, state=state, state_at=MADE_AT)
        shown = world.call("GET", f"/v2/notifications/{id}").json()
        assert (shown["status"], shown["status_description"]) == (status, description)
        assert shown["completed_at"] == ("2026-01-02T03:04:05.000678Z" if done else None)


def test_ids_that_ingest_did_not_give_are_not_found() -> None:
    world = World()
    for id in (uuid4(), ids.new(MADE_AT)):
        answer = world.call("GET", f"/v2/notifications/{id}")
        assert answer.status_code == 404
        assert answer.json() == {"result": "error", "message": "Notification not found in database"}


def test_a_notification_whose_content_was_emptied_is_not_found() -> None:
    world = World()
    id = world.post("/v2/notifications/email", email()).json()["id"]
    world.rows.save()
    world.rows.move(world.log.notifications()[0].id, sealed=b"")
    assert world.call("GET", f"/v2/notifications/{id}").status_code == 404


def test_a_list_shows_the_key_types_own_newest_first_and_links_to_the_next_page() -> None:
    world = World()
    older, newer = (
        world.post("/v2/notifications/email", email(reference=r)).json()["id"] for r in "ab"
    )
    test_key = {"authorization": f"ApiKey-v1 {api_key(NUMBERS[KeyType.TEST])}"}
    world.post("/v2/notifications/email", email(), **test_key)
    world.rows.save()
    shown = world.call("GET", "/v2/notifications?status=created&status=failed").json()
    assert [each["id"] for each in shown["notifications"]] == [newer, older]
    assert shown["links"] == {
        "current": f"{BASE}/v2/notifications?status=created&status=failed",
        "next": f"{BASE}/v2/notifications?older_than={older}&status=created&status=failed",
    }
    own = world.call("GET", "/v2/notifications", headers=test_key).json()["notifications"]
    assert len(own) == 1
    asked = f"/v2/notifications?older_than={newer}&reference=a&reference=x"
    page = world.call("GET", asked).json()
    [last] = page["notifications"]
    assert page["links"]["next"].count("older_than") == 1
    assert last["reference"] == "a"
    empty = world.call("GET", f"/v2/notifications?older_than={uuid4()}").json()
    assert (empty["notifications"], "next" in empty["links"]) == ([], False)
    world.rows.works = False
    assert world.call("GET", "/v2/notifications").status_code == 503


def test_a_list_reports_all_bad_parameters_at_once() -> None:
    answer = WORLD.call("GET", "/v2/notifications?status=blah&include_jobs=yes&older_than=x&foo=1")
    errors = messages(answer)
    assert errors[0].startswith("status blah is not one of [cancelled, created, sending, sent, ")
    assert errors[1:] == [
        "older_than is not a valid UUID",
        "include_jobs yes is not one of [true, True, false, False]",
        "Additional properties are not allowed (foo was unexpected)",
    ]


def test_every_stored_state_is_listed_under_the_status_that_it_shows() -> None:
    for state in State:
        for channel in Channel:
            assert (state, channel) in views.states(views.status(channel, state))


def test_a_template_shows_its_placeholders_and_archived_ones_are_not_listed() -> None:
    world = World()
    world.change(template(Channel.EMAIL, version=2, archived=True, subject="((a)) ((b??x))"))
    shown = world.call("GET", f"/v2/template/{template(Channel.EMAIL).id}").json()
    assert list(shown["personalisation"]) == ["a", "b", "name"]
    listed = world.call("GET", "/v2/templates").json()["templates"]
    assert [each["type"] for each in listed] == ["sms"]
    assert world.call("GET", "/v2/templates?type=email").json() == {"templates": []}


def test_a_warning_about_strangers_is_logged_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [5.0]
    warn = SparseWarning("receipt refused", lambda: now[0])
    for _ in range(1_000):
        warn("signature does not match")
    now[0] += 1.0
    warn("topic is not ours")
    seen = [
        (each.message, each.__dict__["reason"], each.__dict__["count"]) for each in caplog.records
    ]
    assert seen == [
        ("receipt refused", "signature does not match", 1),
        ("receipt refused", "topic is not ours", 1_000),
    ]
