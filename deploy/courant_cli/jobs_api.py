"""Calls of the jobs' part of the API: what they give, and what went wrong, in its own words."""

import time
import uuid
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from courant.errors import Unavailable
from courant_cli.installation import Installation

console = Console(stderr=True, highlight=False)  # what is shown, beside what is piped on
LOOK_SECONDS = 1.0
AWAY_SECONDS = 60.0  # that who watches bears an API which does not answer
CONNECT_SECONDS = 5.0
# A GET counts a million rows, and a 201 for as many comes after all of them were checked.
ANSWER_SECONDS = 300.0
AGAIN = {429, 502, 503, 504}


class Declined(Exception):
    """The API has said no; carries its words."""


def client() -> httpx2.Client:
    """Give what calls the API."""
    places = Installation()
    return httpx2.Client(
        base_url=places.variable("COURANT_URL"),
        headers={"authorization": f"ApiKey-v1 {places.variable('COURANT_API_KEY')}"},
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
    )


def upload(api: httpx2.Client, file: Path, fields: dict[str, str], key: str) -> dict[str, Any]:
    """Stream a file to the API; gives the job. Raises Declined, Unavailable."""
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        Progress(*columns, console=console, transient=True) as progress,
        progress.open(file, "rb") as body,
    ):
        found = asked(
            api,
            "POST",
            "/v2/jobs",
            data=fields,
            files={"file": (file.name, body, "text/csv")},
            headers={"idempotency-key": key},
        )
    return data(found)


def fetch(api: httpx2.Client, id: uuid.UUID, file: Any) -> None:
    """Write a report into a file as it comes; raises Declined, Unavailable if it breaks off."""
    columns = (TextColumn("receiving"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    path = f"/v2/jobs/{id}/report"
    try:
        with (
            api.stream("GET", path) as answer,
            Progress(*columns, console=console, transient=True) as progress,
        ):
            if answer.status_code != 200:
                answer.read()
                raise refusal(answer)
            shown = progress.add_task("", total=None)
            for part in answer.iter_bytes():
                file.write(part)
                progress.advance(shown, len(part))
    except httpx2.TransportError as error:
        reason = f"{type(error).__name__}: the report is not whole, try again"
        raise Unavailable(reason) from None


def looked_up(api: httpx2.Client, id: str) -> dict[str, Any]:
    """Give a job; an API that is away is asked again for a minute. Raises Declined, Unavailable."""
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return data(asked(api, "GET", f"/v2/jobs/{id}"))
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_SECONDS)


def asked(api: httpx2.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    """Call the API; raises Declined, or Unavailable where the same may succeed later."""
    try:
        answer = api.request(method, path, **more)
    except httpx2.TransportError as error:
        raise Unavailable(f"the API does not answer: {type(error).__name__}") from None
    if not answer.is_success:
        raise refusal(answer)
    return answer.json()  # type: ignore[no-any-return]  # as the API describes it


def refusal(answer: httpx2.Response) -> Declined | Unavailable:
    """Give the API's words as an error, whichever shape they have."""
    try:
        told = answer.json()
        texts = [each["message"] for each in told.get("errors", [])] or [told["message"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        texts = [answer.reason_phrase]
    words = f"{answer.status_code}: {' '.join(map(str, texts))}"
    return Unavailable(words) if answer.status_code in AGAIN else Declined(words)


def data(answer: dict[str, Any]) -> dict[str, Any]:
    """Give the job that an answer has."""
    found: dict[str, Any] = answer["data"]
    return found
