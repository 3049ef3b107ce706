"""The sandbox fails as it is ordered to, by its control or by a recipient's address."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from support.sandbox_process import Sandbox, bulk, email, running, text
from support.waiting import ANSWER_SECONDS, wait


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: Sandbox) -> Iterator[Sandbox]:
    yield process
    process.reset()


@pytest.fixture(scope="module")
def ses(process: Sandbox) -> Any:
    return process.client("sesv2")


@pytest.fixture(scope="module")
def sms(process: Sandbox) -> Any:
    return process.client("pinpoint-sms-voice-v2")


def code(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response: dict[str, Any] = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def sends(sandbox: Sandbox, id: str) -> int:
    return sum(line["notification_id"] == id for line in sandbox.ledger())


class Background(threading.Thread):
    """A call that is under way while the test looks on."""

    def __init__(self, call: Any, **arguments: Any) -> None:
        super().__init__()
        self.answer: Any = None
        self._call: Callable[[], Any] = partial(call, **arguments)
        self.start()

    def run(self) -> None:
        self.answer = self._call()


def test_an_error_by_name_is_given_and_nothing_booked(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(error={"code": "AccountSuspendedException", "message": "gone"})
    assert code(ses.send_email, **email("a@b.ca", "named")) == ("AccountSuspendedException", 400)
    assert sends(sandbox, "named") == 0


def test_an_error_of_one_channel_leaves_the_other_alone(
    sandbox: Sandbox, ses: Any, sms: Any
) -> None:
    error = {"code": "ServiceQuotaExceededException", "reason": "MONTHLY_SPEND_LIMIT_REACHED"}
    sandbox.order(channel="sms", error=error)
    with pytest.raises(ClientError) as caught:
        sms.send_text_message(**text("+16135550199", "a"))
    response: dict[str, Any] = caught.value.response
    assert response["Reason"] == "MONTHLY_SPEND_LIMIT_REACHED"
    assert ses.send_email(**email("a@b.ca"))["MessageId"]


def test_an_error_after_booking_is_a_500_with_a_line_in_the_ledger(
    sandbox: Sandbox, ses: Any, sms: Any
) -> None:
    sandbox.order(error_after_booking=1)
    mail, phone = str(uuid4()), str(uuid4())
    assert code(ses.send_email, **email("a@b.ca", mail))[1] == 500
    expected = ("InternalServerException", 500)
    assert code(sms.send_text_message, **text("+16135550199", phone)) == expected
    assert (sends(sandbox, mail), sends(sandbox, phone)) == (1, 1)


def test_latency_is_kept_and_the_call_seen_in_progress(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(latency_seconds=3)  # so long that a busy machine sees the call, too
    began = time.monotonic()
    call = Background(ses.send_email, **email("a@b.ca", "waiting"))
    told = wait(lambda: (told := sandbox.calls())["calls"] and told)
    assert told["notification_ids"] == ["waiting"]
    call.join()
    assert time.monotonic() - began >= 3
    wait(lambda: sandbox.calls()["calls"] == 0)


@pytest.mark.parametrize(("stage", "booked"), [("before-booking", 0), ("after-booking", 2)])
def test_held_calls_are_in_progress_until_released(
    sandbox: Sandbox, ses: Any, stage: str, booked: int
) -> None:
    sandbox.order(hold=stage)
    ids = [str(uuid4()), str(uuid4())]
    call = Background(ses.send_bulk_email, **bulk([("a@b.ca", id) for id in ids]))
    told = wait(lambda: (told := sandbox.calls())["calls"] == 1 and told)
    wait(lambda: sum(sends(sandbox, id) for id in ids) == booked)
    assert told["notification_ids"] == ids
    assert call.is_alive()
    sandbox.order(hold=None)
    call.join()
    assert [entry["Status"] for entry in call.answer["BulkEmailEntryResults"]] == ["SUCCESS"] * 2
    assert [sends(sandbox, id) for id in ids] == [1, 1]


def test_a_killed_callers_held_message_is_booked_once(sandbox: Sandbox) -> None:
    sandbox.order(hold="after-booking")
    id = str(uuid4())
    impatient = sandbox.client("sesv2", read_timeout=0.3)
    with pytest.raises(ReadTimeoutError):
        impatient.send_email(**email("a@b.ca", id))
    wait(lambda: sandbox.calls()["notification_ids"] == [id])
    sandbox.order(hold=None)
    wait(lambda: sandbox.calls()["calls"] == 0)
    assert sends(sandbox, id) == 1


def test_half_a_body_is_a_result_without_an_id(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(lose_answer={"form": "half-body"})
    assert "MessageId" not in ses.send_email(**email("a@b.ca", "half"))
    assert sends(sandbox, "half") == 1


def test_an_answer_that_hangs_is_booked_and_ends_with_its_caller(sandbox: Sandbox) -> None:
    sandbox.order(lose_answer={"form": "hang"})
    with pytest.raises(ReadTimeoutError):
        sandbox.client("sesv2", read_timeout=0.3).send_email(**email("a@b.ca", "hangs"))
    wait(lambda: sends(sandbox, "hangs") == 1)
    wait(lambda: sandbox.calls()["calls"] == 0)


def test_all_is_throttled_by_share(sandbox: Sandbox, ses: Any, sms: Any) -> None:
    sandbox.order(throttle_share=1)
    assert code(ses.send_email, **email("a@b.ca")) == ("TooManyRequestsException", 429)
    assert code(ses.send_bulk_email, **bulk([("a@b.ca", "a")]))[1] == 429
    assert code(sms.send_text_message, **text("+16135550199", "a")) == ("ThrottlingException", 400)
    publish = sandbox.client("sns").publish
    assert code(publish, PhoneNumber="+16135550199", Message="A") == ("Throttling", 400)


def test_a_bulk_call_runs_into_debt_that_the_next_calls_pay(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(quota_per_second=5)  # a debt of seven seconds: a busy machine asks within it
    assert ses.get_account()["SendQuota"]["MaxSendRate"] == 5
    began = time.monotonic()
    ses.send_bulk_email(**bulk([("a@b.ca", f"debt{n}") for n in range(40)]))
    assert code(ses.send_email, **email("a@b.ca"))[1] == 429

    def goes_through() -> bool:
        try:
            ses.send_email(**email("a@b.ca"))
        except ClientError:
            return False
        return True

    wait(goes_through)
    assert time.monotonic() - began >= 7


def test_calls_a_second_are_counted_by_call(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(calls_per_second=0.01)
    ses.send_bulk_email(**bulk([("a@b.ca", f"call{n}") for n in range(50)]))
    assert code(ses.send_email, **email("a@b.ca"))[1] == 429


def test_a_bulk_status_is_given_and_the_entry_not_booked(sandbox: Sandbox, ses: Any) -> None:
    sandbox.order(bulk_status={"status": "TRANSIENT_FAILURE"})
    (entry,) = ses.send_bulk_email(**bulk([("a@b.ca", "status")]))["BulkEmailEntryResults"]
    assert entry["Status"] == "TRANSIENT_FAILURE"
    assert sends(sandbox, "status") == 0


@pytest.mark.parametrize(
    "patch",
    [
        {"latency": 1},
        {"throttle_share": 2},
        {"hold": "sometimes"},
        {"channel": "fax"},
        {"events": {"kinds": ["Sent"]}},
        {"bulk_status": {"status": "SAD"}},
    ],
)
def test_orders_that_are_not_usable_change_nothing(sandbox: Sandbox, patch: Any) -> None:
    sandbox.order(latency_seconds=0.01)
    before = sandbox.get("/_control").json()
    answer = httpx2.put(
        f"{sandbox.url}/_control", json=patch | {"error_after_booking": 1}, timeout=ANSWER_SECONDS
    )
    assert answer.status_code == 400
    assert sandbox.get("/_control").json() == before


def test_orders_merge_and_null_puts_one_back(sandbox: Sandbox) -> None:
    sandbox.order(latency_seconds=0.5, events={"double": True})
    sandbox.order(latency_seconds=None, events={"shuffle": True})
    shown = sandbox.get("/_control").json()["email"]
    assert shown["latency_seconds"] == 0
    assert (shown["events"]["double"], shown["events"]["shuffle"]) == (True, True)


def test_an_address_that_throttles_is_taken_the_third_time(sandbox: Sandbox, ses: Any) -> None:
    to = f"throttle+{uuid4()}@b.ca"
    codes = [code(ses.send_email, **email(to))[0] for _ in range(2)]
    assert codes == ["TooManyRequestsException"] * 2
    assert ses.send_email(**email(to, "third"))["MessageId"]
    assert sends(sandbox, "third") == 1


def test_in_a_bulk_call_an_address_concerns_its_own_entry(sandbox: Sandbox, ses: Any) -> None:
    entries = [(f"throttle+{uuid4()}@b.ca", "t"), ("reject@b.ca", "r"), ("fine@b.ca", "f")]
    results = ses.send_bulk_email(**bulk(entries))["BulkEmailEntryResults"]
    assert [result["Status"] for result in results] == [
        "ACCOUNT_THROTTLED",
        "MESSAGE_REJECTED",
        "SUCCESS",
    ]
    assert [sends(sandbox, id) for id in ("t", "r", "f")] == [0, 0, 1]


@pytest.mark.parametrize(
    ("to", "expected", "booked"),
    [
        ("reject@b.ca", ("MessageRejected", 400), 0),
        ("error+tag@b.ca", ("InternalFailure", 500), 0),
        ("Lost <lost@b.ca>", ("InternalFailure", 500), 1),
    ],
)
def test_an_address_refuses(
    sandbox: Sandbox, ses: Any, to: str, expected: tuple[str, int], booked: int
) -> None:
    id = str(uuid4())
    assert code(ses.send_email, **email(to, id)) == expected
    assert sends(sandbox, id) == booked


@pytest.mark.parametrize(
    ("digits", "expected", "booked"),
    [
        ("0004", ("ConflictException", 400), 0),
        ("0006", ("ThrottlingException", 400), 0),
        ("0007", ("InternalServerException", 500), 0),
        ("0008", ("InternalServerException", 500), 1),
        ("0015", ("ValidationException", 400), 0),
    ],
)
def test_a_number_refuses(
    sandbox: Sandbox, sms: Any, digits: str, expected: tuple[str, int], booked: int
) -> None:
    id = str(uuid4())
    assert code(sms.send_text_message, **text(f"+1613555{digits}", id)) == expected
    assert sends(sandbox, id) == booked


def test_sns_takes_a_number_that_is_opted_out(sandbox: Sandbox) -> None:
    sandbox.client("sns").publish(PhoneNumber="+16135550004", Message="A text")
    assert sandbox.ledger()[-1]["outcome"] == "opted-out"


def test_a_slow_address_is_answered_late(ses: Any) -> None:
    began = time.monotonic()
    assert ses.send_email(**email("slow@b.ca"))["MessageId"]
    assert time.monotonic() - began >= 3


def test_cut_gives_half_a_body(ses: Any) -> None:
    assert "MessageId" not in ses.send_email(**email("cut@b.ca"))


def test_what_is_counted_is_shown(sandbox: Sandbox, ses: Any) -> None:
    ses.send_email(**email("a@b.ca"))
    counted = 'courant_sandbox_calls_total{answer="accepted",api="SendEmail"}'
    wait(lambda: counted in sandbox.get("/metrics").text)
    assert sandbox.get("/healthz").is_success
