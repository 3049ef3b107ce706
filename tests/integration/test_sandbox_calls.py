"""Unmodified boto3 sends by every call the sandbox knows, and is refused what AWS refuses."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from support.sandbox_process import Sandbox, bulk, email, running, text


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("sandbox"), SANDBOX_RATE="14") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def ses(sandbox: Sandbox) -> Any:
    return sandbox.client("sesv2")


@pytest.fixture(scope="module")
def sms(sandbox: Sandbox) -> Any:
    return sandbox.client("pinpoint-sms-voice-v2")


def refused(call: Any, **arguments: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value


def code(error: ClientError) -> tuple[str, int]:
    response: dict[str, Any] = error.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_simple_email_is_in_the_ledger_with_its_id_and_attempt(
    sandbox: Sandbox, ses: Any
) -> None:
    id = str(uuid4())
    answer = ses.send_email(**email("someone@example.ca", id, attempt=214748))
    line = sandbox.line_of(id)
    digest = hashlib.sha256(b"A subject\0A text\0<p>A text</p>\0").hexdigest()
    assert line | {"at": ""} == {
        "at": "",
        "channel": "email",
        "to": "someone@example.ca",
        "notification_id": id,
        "attempt": 214748,
        "message_id": answer["MessageId"],
        "outcome": "delivered",
        "body_hash": digest,
    }


def test_the_same_parts_have_one_hash_whichever_call_sent_them(sandbox: Sandbox, ses: Any) -> None:
    single, many = str(uuid4()), str(uuid4())
    ses.send_email(**email("someone@example.ca", single))
    ses.send_bulk_email(**bulk([("someone@example.ca", many)]))
    assert sandbox.line_of(single)["body_hash"] == sandbox.line_of(many)["body_hash"]


def test_a_raw_message_names_its_recipient_sender_and_tags_itself(
    sandbox: Sandbox, ses: Any
) -> None:
    id = str(uuid4())
    data = (
        f"From: Service <service@example.ca>\r\nTo: raw@example.ca\r\nSubject: Raw\r\n"
        f"X-SES-MESSAGE-TAGS: courant_id={id}, courant_attempt=9\r\n\r\nA text\r\n"
    )
    ses.send_email(Content={"Raw": {"Data": data.encode()}})
    line = sandbox.line_of(id)
    assert (line["to"], line["attempt"]) == ("raw@example.ca", 9)


def test_an_inline_template_is_filled_in_and_html_left_alone(sandbox: Sandbox, ses: Any) -> None:
    id = str(uuid4())
    content = {"Subject": "For {{ name }}", "Text": "Hi {{name}}", "Html": "<b>{{name}}</b>"}
    template = {"TemplateContent": content, "TemplateData": json.dumps({"name": "A & <i>B</i>"})}
    ses.send_email(**email("someone@example.ca", id, Content={"Template": template}))
    parts = "For A & <i>B</i>\0Hi A & <i>B</i>\0<b>A & <i>B</i></b>\0"
    assert sandbox.line_of(id)["body_hash"] == hashlib.sha256(parts.encode()).hexdigest()


def test_fifty_entries_have_fifty_results_in_order(sandbox: Sandbox, ses: Any) -> None:
    ids = [str(uuid4()) for _ in range(50)]
    answer = ses.send_bulk_email(**bulk([(f"to{n}@example.ca", id) for n, id in enumerate(ids)]))
    results = answer["BulkEmailEntryResults"]
    lines = [sandbox.line_of(id) for id in ids]
    assert [result["Status"] for result in results] == ["SUCCESS"] * 50
    assert [result["MessageId"] for result in results] == [line["message_id"] for line in lines]
    assert [line["to"] for line in lines] == [f"to{n}@example.ca" for n in range(50)]
    assert {line["attempt"] for line in lines} == {3}


def test_an_entry_whose_data_lacks_a_value_is_accepted_and_fails_later(
    sandbox: Sandbox, ses: Any
) -> None:
    id = str(uuid4())
    answer = ses.send_bulk_email(**bulk([("someone@example.ca", id)], {"s": "A", "t": "B"}))
    assert answer["BulkEmailEntryResults"][0]["Status"] == "SUCCESS"
    assert sandbox.line_of(id)["outcome"] == "rendering-failed"


def test_an_entrys_tags_and_data_stand_before_the_calls_own(sandbox: Sandbox, ses: Any) -> None:
    id = str(uuid4())
    call = bulk([("someone@example.ca", id)], {"s": "own"})
    call["DefaultEmailTags"] = [{"Name": "courant_id", "Value": "default"}]
    call["DefaultContent"]["Template"]["TemplateData"] = json.dumps({"s": "x", "t": "T", "h": "H"})
    ses.send_bulk_email(**call)
    expected = hashlib.sha256(b"own\0T\0H\0").hexdigest()
    assert sandbox.line_of(id)["body_hash"] == expected


def test_the_account_tells_its_rate(ses: Any) -> None:
    account = ses.get_account()
    assert account["SendQuota"]["MaxSendRate"] == 14
    assert account["SendingEnabled"]


def test_a_text_message_is_in_the_ledger_with_its_context(sandbox: Sandbox, sms: Any) -> None:
    id = str(uuid4())
    answer = sms.send_text_message(**text("+16135550199", id))
    line = sandbox.line_of(id)
    assert (line["channel"], line["to"], line["attempt"]) == ("sms", "+16135550199", 2)
    assert line["message_id"] == answer["MessageId"]


def test_a_dry_run_is_answered_and_not_sent(sandbox: Sandbox, sms: Any) -> None:
    before = len(sandbox.ledger())
    assert sms.send_text_message(**text("+16135550199", "dry", DryRun=True))["MessageId"]
    assert len(sandbox.ledger()) == before


def test_sns_publish_has_no_tags(sandbox: Sandbox) -> None:
    message_id = sandbox.client("sns").publish(PhoneNumber="+16135550198", Message="é&<")[
        "MessageId"
    ]
    line = sandbox.ledger()[-1]
    assert (line["message_id"], line["to"]) == (message_id, "+16135550198")
    assert (line["notification_id"], line["attempt"]) == (None, None)


def simple(**more: Any) -> dict[str, Any]:
    body = {"Text": {"Data": "A text"}}
    return {"Content": {"Simple": {"Subject": {"Data": "S"}, "Body": body} | more}}


def headers(*pairs: tuple[str, str]) -> dict[str, Any]:
    return simple(Headers=[{"Name": name, "Value": value} for name, value in pairs])


def tag(name: str, value: str) -> dict[str, Any]:
    return {"EmailTags": [{"Name": name, "Value": value}]}


def inline(**more: Any) -> dict[str, Any]:
    template = {"TemplateContent": {"Subject": "S", "Text": "{{t}}"}, "TemplateData": "{}"} | more
    return {"Content": {"Template": template}}


REFUSED_EMAILS: dict[str, dict[str, Any]] = {
    "no address": {"Destination": {"ToAddresses": ["nobody"]}},
    "no domain": {"Destination": {"ToAddresses": ["nobody@"]}},
    "a blank in it": {"Destination": {"ToAddresses": ["no body@example.ca"]}},
    "a line break in it": {"Destination": {"ToAddresses": ["nobody@example.ca\r\nBcc: x@y.ca"]}},
    "not ASCII": {"Destination": {"ToAddresses": ["andré@example.ca"]}},
    "a domain that is not Punycode": {"Destination": {"ToAddresses": ["andre@exämple.ca"]}},
    "a name that is not encoded": {"Destination": {"ToAddresses": ["André <a@example.ca>"]}},
    "no recipient": {"Destination": {}},
    "51 recipients": {"Destination": {"ToAddresses": [f"a{n}@example.ca" for n in range(51)]}},
    "a bad sender": {"FromEmailAddress": "service"},
    "a bad reply-to": {"ReplyToAddresses": ["service"]},
    "16 headers": headers(*((f"X-{n}", "v") for n in range(16))),
    "a long header name": headers(("X" * 127, "v")),
    "a header name with a colon": headers(("X:Y", "v")),
    "a long header value": headers(("X-A", "v" * 996)),
    "a header value with a line break": headers(("X-A", "v\r\nBcc: x@y.ca")),
    "a header value that is not ASCII": headers(("X-A", "é")),
    "a tag name with a colon": tag("courant:id", "v"),
    "a tag value with a dot": tag("courant_id", "a.b"),
    "an empty tag value": tag("courant_id", ""),
    "a long tag value": tag("courant_id", "v" * 257),
    "no content": {"Content": {}},
    "no body": simple(Body={}),
    "two contents": {"Content": simple()["Content"] | inline()["Content"]},
    "long template data": inline(TemplateData=json.dumps({"t": "x" * 262_140})),
    "template data that is no object": inline(TemplateData="[]"),
    "template data that is no JSON": inline(TemplateData="{"),
    "an inline template over 1 MB": inline(TemplateContent={"Text": "x" * 1_048_577}),
}


@pytest.mark.parametrize("wrong", REFUSED_EMAILS)
def test_an_email_is_refused_for(sandbox: Sandbox, ses: Any, wrong: str) -> None:
    before = len(sandbox.ledger())
    error = refused(ses.send_email, **email("a@example.ca", **REFUSED_EMAILS[wrong]))
    assert code(error) == ("BadRequestException", 400)
    assert len(sandbox.ledger()) == before


ACCEPTED_EMAILS: dict[str, dict[str, Any]] = {
    "50 recipients": {"Destination": {"ToAddresses": [f"a{n}@example.ca" for n in range(50)]}},
    "a name": {"Destination": {"ToAddresses": ["Some One <someone@example.ca>"]}},
    "an encoded name": {"Destination": {"ToAddresses": ["=?utf-8?q?Andr=C3=A9?= <a@example.ca>"]}},
    "a Punycode domain": {"Destination": {"ToAddresses": ["andre@xn--exmple-cua.ca"]}},
    "15 headers": headers(*((f"X-{n}", "v" * 995) for n in range(15))),
    "a long tag": tag("n" * 256, "v" * 256),
    "template data at its limit": inline(TemplateData=json.dumps({"t": "x" * 262_134})),
}


@pytest.mark.parametrize("right", ACCEPTED_EMAILS)
def test_an_email_is_accepted_with(ses: Any, right: str) -> None:
    assert ses.send_email(**email("a@example.ca", **ACCEPTED_EMAILS[right]))["MessageId"]


def test_a_message_over_40_mb_is_rejected(ses: Any) -> None:
    data = b"From: a@example.ca\r\nTo: b@example.ca\r\n\r\n" + b"x" * (31 * 1024 * 1024)
    error = refused(ses.send_email, Content={"Raw": {"Data": data}})
    assert code(error) == ("MessageRejected", 400)


def test_a_stored_template_is_not_found(ses: Any) -> None:
    stored: dict[str, Any] = {
        "Content": {"Template": {"TemplateName": "stored", "TemplateData": "{}"}}
    }
    assert code(refused(ses.send_email, **email("a@example.ca", **stored))) == (
        "NotFoundException",
        404,
    )


def test_one_bad_address_fails_the_whole_bulk_call(sandbox: Sandbox, ses: Any) -> None:
    before = len(sandbox.ledger())
    error = refused(ses.send_bulk_email, **bulk([("a@example.ca", "a"), ("andré@b.ca", "b")]))
    assert code(error) == ("BadRequestException", 400)
    assert len(sandbox.ledger()) == before


def test_51_entries_are_refused(ses: Any) -> None:
    error = refused(ses.send_bulk_email, **bulk([("a@example.ca", "a")] * 51))
    assert code(error) == ("BadRequestException", 400)


def test_a_bulk_call_over_1_mb_is_refused(ses: Any) -> None:
    data = {"s": "S", "t": "x" * 25_000, "h": "H"}
    error = refused(ses.send_bulk_email, **bulk([("a@example.ca", "a")] * 50, data))
    assert code(error) == ("BadRequestException", 400)


REFUSED_TEXTS: dict[str, dict[str, Any]] = {
    "a number without plus": {"DestinationPhoneNumber": "16135550199"},
    "a number that is short": {"DestinationPhoneNumber": "+1613"},
    "a number with letters": {"DestinationPhoneNumber": "+1613555CALL"},
    "blanks": {"MessageBody": " \n "},
    "1,601 characters": {"MessageBody": "x" * 1_601},
    "six pairs of context": {"Context": {f"k{n}": "v" for n in range(6)}},
    "a blank in a context's key": {"Context": {"a key": "v"}},
    "a long context key": {"Context": {"k" * 101: "v"}},
    "a long context value": {"Context": {"k": "v" * 801}},
    "a message type of its own": {"MessageType": "OTHER"},
}


@pytest.mark.parametrize("wrong", REFUSED_TEXTS)
def test_a_text_message_is_refused_for(sandbox: Sandbox, sms: Any, wrong: str) -> None:
    before = len(sandbox.ledger())
    error = refused(sms.send_text_message, **text("+16135550199", "a", **REFUSED_TEXTS[wrong]))
    assert code(error) == ("ValidationException", 400)
    assert error.response["Reason"], "at the top, in this service"
    assert len(sandbox.ledger()) == before


def test_1600_characters_and_five_pairs_are_taken(sms: Any) -> None:
    more = {"MessageBody": "é" * 1_600, "Context": {f"k{n}": "v" * 800 for n in range(5)}}
    assert sms.send_text_message(**text("+16135550199", "a", **more))["MessageId"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"PhoneNumber": "6135550199", "Message": "A text"},
        {"PhoneNumber": "+16135550199", "Message": " "},
        {"PhoneNumber": "+16135550199", "Message": "é" * 801},
    ],
)
def test_sns_refuses(sandbox: Sandbox, wrong: dict[str, str]) -> None:
    error = refused(sandbox.client("sns").publish, **wrong)
    assert code(error) == ("InvalidParameter", 400)
