"""Hostile requests to make jobs: each is answered without a 5xx, and no row is lost."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from courant.contracts import Seal
from courant.topics import Channel
from support.ingest.uploads import BULK, FORM, JOBS, bulk, fields, file, form, job
from support.ingest.world import World, template

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELDS = ["template_id", "name", "rows", "csv", "reference", "scheduled_for", "reply_to_id", "x"]
HEADERS = ["email address", "phone number", "name", "Name", "reference", "", "adresse courriel"]
CELLS = st.sampled_from(["a@b.ca", "+16135550199", "", " ", "x", 7, None, True, "\0"]) | JSON
ROWS = st.lists(st.lists(CELLS, max_size=4), min_size=1, max_size=5)
GOOD = form(fields(), file(b"email address,name\r\n" + b'a@b.ca,"x\ny"\r\n' * 30))


def answered(world: World, path: str, content: bytes, kind: str) -> None:
    answer = world.call(
        "POST", path, content=content, headers={"content-type": kind.encode("latin-1")}
    )
    assert answer.status_code < 500, answer.text
    if answer.status_code != 201:
        assert world.log.seals() == []
        return
    # An accepted job has all its rows in the log.
    seal, rows = job(world)
    assert len(rows) == seal.rows == answer.json()["data"]["notification_count"]


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), st.booleans())
def test_no_form_fails_with_a_5xx(more: dict[str, Any], sms: bool) -> None:
    given_ = {**bulk(Channel.SMS if sms else Channel.EMAIL), **more}
    try:
        content = json.dumps(given_).encode()
    except UnicodeEncodeError:
        return
    answered(World(), BULK, content, "application/json")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(HEADERS), max_size=4), ROWS, st.booleans())
def test_no_rows_fail_with_a_5xx(header: list[str], rows: list[list[Any]], sms: bool) -> None:
    channel = Channel.SMS if sms else Channel.EMAIL
    content = json.dumps(bulk(channel, rows=[header, *rows])).encode()
    answered(World(), BULK, content, "application/json")


@settings(max_examples=200)
@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_or_template_fails_with_a_5xx(text: str, body: str) -> None:
    world = World()
    world.change(template(Channel.EMAIL, body=f"((name)){body}"))
    content = json.dumps(bulk(csv=f"email address,name\na@b.ca,{text}\n")).encode()
    answered(world, BULK, content, "application/json")


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.binary(max_size=12), st.integers(0, 12))
def test_no_corrupt_upload_fails_with_a_5xx(at: int, put: bytes, cut: int) -> None:
    world = World()
    answered(world, JOBS, GOOD[:at] + put + GOOD[at + cut :], FORM["content-type"])
    assert all(isinstance(each, Seal) or each.rows for each in world.log.jobs())  # type: ignore[union-attr]  # no commands


@settings(max_examples=100)
@given(st.binary(max_size=80), st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_bytes_and_no_content_type_fail_with_a_5xx(content: bytes, kind: str) -> None:
    line = "".join(each for each in kind if each.isprintable())
    answered(World(), JOBS, content, f"multipart/form-data; boundary={line}")
    answered(World(), JOBS, content, line)
