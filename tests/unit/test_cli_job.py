"""`courant job`: what it asks the API, what it shows, and how it ends."""

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from courant_cli import jobs_api, main

ID = "01a20f64-a386-7e1a-ba4a-bf07554d9cd2"
Handler = Callable[[httpx2.Request], httpx2.Response]


def job(**more: Any) -> dict[str, Any]:
    given = {
        "id": ID,
        "created_at": "2026-05-06T12:00:00.000000+00:00",
        "job_status": "pending",
        "notification_count": 1000,
        "original_file_name": "list.csv",
    }
    return {**given, **more}


def progress(saved: int, status: str = "in progress", **counts: int) -> dict[str, Any]:
    finish = "2026-05-06T12:34:56.000000+00:00" if status == "in progress" else None
    told = {"counts": counts, "saved": saved, "rows_per_second": 2000.0, "estimated_finish": finish}
    return job(job_status=status, **told)


class Api:
    """What the API would answer, call by call; it keeps what it was asked."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command on an API: exit code, standard output, the rest."""

    def run(api: Handler, *words: str) -> tuple[int, str, str]:
        transport = httpx2.MockTransport(api)
        client = httpx2.Client(base_url="http://api", transport=transport)
        monkeypatch.setattr(jobs_api, "client", lambda: client)
        monkeypatch.setattr(jobs_api, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(sys, "argv", ["courant", "job", *words])
        with pytest.raises(SystemExit) as left:
            main.main()
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return run


def ok(found: dict[str, Any], status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, json={"data": found})


def refused(status: int, message: str) -> httpx2.Response:
    errors = [{"error": "BadRequestError", "message": message}]
    return httpx2.Response(status, json={"status_code": status, "errors": errors})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "list.csv"
    place.write_text("email address,name\na@example.com,Zoë\n")
    return place


def test_a_file_goes_behind_the_fields_that_say_what_it_is(run: Any, file: Path) -> None:
    api = Api(ok(job(), 201))
    words = ("--schedule", "2026-05-06T12:00", "--reply-to", "r", "--idempotency-key", "k-1")
    code, out, _ = run(api, "submit", str(file), "--template", "t-1", *words)
    assert code == 0
    assert (ID in out, "pending" in out) == (True, True)
    [asked] = api.asked
    assert (asked.method, asked.url.path) == ("POST", "/v2/jobs")
    assert asked.headers["idempotency-key"] == "k-1"
    body = asked.content.decode()
    places = [body.index(each) for each in (
        'name="template_id"\r\n\r\nt-1', 'name="name"\r\n\r\nlist.csv',
        'name="scheduled_for"\r\n\r\n2026-05-06T12:00', 'name="reply_to_id"\r\n\r\nr',
        'name="file"; filename="list.csv"\r\nContent-Type: text/csv\r\n\r\nemail address,name\n',
    )]  # fmt: skip
    assert places == sorted(places)
    assert "a@example.com,Zoë\n" in body


def test_only_fields_that_are_given_are_sent_and_a_key_is_made(run: Any, file: Path) -> None:
    api = Api(ok(job(), 201))
    code, out, err = run(api, "submit", str(file), "--template", "t-1", "--json")
    assert (code, json.loads(out)["id"]) == (0, ID)
    [asked] = api.asked
    key = asked.headers["idempotency-key"]
    assert str(uuid.UUID(key)) == key
    assert key in err
    assert "scheduled_for" not in asked.content.decode()


@pytest.mark.parametrize(
    "broken", [httpx2.ReadError("gone"), refused(503, "The request could not be stored")]
)
def test_an_upload_that_broke_off_says_how_to_send_it_again(
    run: Any, file: Path, broken: Any
) -> None:
    code, _, err = run(
        Api(broken), "submit", str(file), "--template", "t", "--idempotency-key", "k"
    )
    assert code == 1
    assert "send it again with --idempotency-key k" in err


def test_what_the_api_refuses_is_said_in_its_words(run: Any, file: Path) -> None:
    told = "Missing column headers: email address"
    code, _, err = run(Api(refused(400, told)), "submit", str(file), "--template", "t")
    assert (code, f"courant: 400: {told}" in err, "again" in err) == (1, True, False)
    answer = httpx2.Response(404, json={"result": "error", "message": "Not here"})
    assert "courant: 404: Not here" in run(Api(answer), "cancel", ID)[2]
    answer = httpx2.Response(500, text="<html>")
    assert "courant: 500: Internal Server Error" in run(Api(answer), "cancel", ID)[2]


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("cancelled", 1), ("error", 1)])
def test_watch_ends_when_the_job_does_with_a_code_that_says_how(
    run: Any, status: str, code: int
) -> None:
    away = (refused(503, "try again"), httpx2.ConnectError("refused"))
    api = Api(ok(progress(10, pending=990)), *away, ok(progress(1000, status, delivered=1000)))
    found, out, err = run(api, "watch", ID, "--json")
    assert (found, json.loads(out)["job_status"]) == (code, status)
    assert (api.answers, "1000/1000" in err, "1,000 delivered" in err) == ([], True, True)


def test_watch_does_not_bear_a_refusal(run: Any) -> None:
    code, _, err = run(Api(refused(404, "No result found")), "watch", ID)
    assert (code, "courant: 404: No result found" in err) == (1, True)


def test_submit_and_watch_in_one(run: Any, file: Path) -> None:
    api = Api(ok(job(), 201), ok(progress(1000, "finished", delivered=1000)))
    assert run(api, "submit", str(file), "--template", "t", "--watch")[0] == 0
    assert [each.method for each in api.asked] == ["POST", "GET"]


def test_ctrl_c_leaves_the_job_alone_and_says_so(run: Any) -> None:
    def api(request: httpx2.Request) -> httpx2.Response:
        if request.method != "GET":
            raise AssertionError("the job was touched")
        raise KeyboardInterrupt

    code, _, err = run(api, "watch", ID)
    assert (code, f"the job goes on. Again: courant job watch {ID}" in err) == (130, True)


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_steering_asks_for_it_and_shows_what_will_be(run: Any, verb: str) -> None:
    api = Api(ok(progress(5, "paused", delivered=5, pending=995), 202))
    code, out, _ = run(api, verb, ID)
    assert (code, "5 delivered  995 pending" in out) == (0, True)
    assert [(each.method, each.url.path) for each in api.asked] == [
        ("POST", f"/v2/jobs/{ID}/{verb}")
    ]


def test_a_list_shows_names_as_text(run: Any) -> None:
    def api(_: httpx2.Request) -> httpx2.Response:
        found = job(original_file_name="[red]a\x1b[2Jb")
        return httpx2.Response(200, json={"jobs": [found], "links": {}})

    code, out, _ = run(api, "list")
    assert (code, ID in out, "[red]a" in out, "\x1b" in out) == (0, True, True, False)
    assert [each["id"] for each in json.loads(run(api, "list", "--json")[1])] == [ID]


class Broken(httpx2.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"row number\r\n1\r\n"
        raise httpx2.RemoteProtocolError("incomplete chunked read")


def test_a_report_is_there_once_it_is_whole(run: Any, tmp_path: Path) -> None:
    place = tmp_path / "r.csv"
    answer = httpx2.Response(200, content=b"row number\r\n1\r\n")
    assert run(Api(answer), "report", ID, "--output", str(place))[0] == 0
    assert place.read_bytes() == b"row number\r\n1\r\n"


def test_a_report_that_breaks_off_leaves_nothing_and_an_older_one_alone(
    run: Any, tmp_path: Path
) -> None:
    place = tmp_path / "r.csv"
    code, _, err = run(
        Api(httpx2.Response(200, stream=Broken())), "report", ID, "--output", str(place)
    )
    assert (code, "the report is not whole" in err, list(tmp_path.iterdir())) == (1, True, [])
    place.write_text("older")
    run(Api(httpx2.Response(200, stream=Broken())), "report", ID, "--output", str(place))
    assert (place.read_text(), len(list(tmp_path.iterdir()))) == ("older", 1)
    code, _, err = run(Api(refused(404, "No result found")), "report", ID, "--output", str(place))
    assert (code, "404: No result found" in err, place.read_text()) == (1, True, "older")


def test_a_report_goes_to_standard_output_where_that_is_asked(run: Any) -> None:
    answer = httpx2.Response(200, content="row number\r\n1\r\n")
    code, out, _ = run(Api(answer), "report", ID, "--output", "-")
    assert (code, out.split()) == (0, ["row", "number", "1"])
