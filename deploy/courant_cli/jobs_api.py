"""Calls the API of jobs; its errors carry the API's own words."""

import time
import uuid
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from courant.errors import Unavailable
from courant_cli.installation import Installation

console = Console(stderr=True, highlight=False)  # stderr, so that standard output can be piped on
LOOK_SECONDS = 1.0
AWAY_SECONDS = 60.0  # how long `watch` waits for an API that does not answer
CONNECT_SECONDS = 5.0
# A GET counts up to a million rows. A 201 for as many comes only after all of them were checked.
ANSWER_SECONDS = 300.0
AGAIN = {429, 502, 503, 504}


class Declined(Exception):
    """The API rejected the call; carries the API's words."""


def client() -> httpx2.Client:
    """Return the HTTP client for the API."""
    installation = Installation()
    return httpx2.Client(
        base_url=installation.variable("COURANT_URL"),
        headers={"authorization": f"ApiKey-v1 {installation.variable('COURANT_API_KEY')}"},
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
    )


def upload(api: httpx2.Client, file: Path, fields: dict[str, str], key: str) -> dict[str, Any]:
    """Stream a file to the API and return its job. Raises Declined, Unavailable."""
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
    """Stream a report into a file. Raises Declined, or Unavailable if the report breaks off."""
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
    """Return a job, retrying for a minute while the API is away. Raises Declined, Unavailable."""
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return data(asked(api, "GET", f"/v2/jobs/{id}"))
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_SECONDS)


def asked(api: httpx2.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    """Call the API. Raises Declined, or Unavailable if the same call may succeed later."""
    try:
        answer = api.request(method, path, **more)
    except httpx2.TransportError as error:
        raise Unavailable(f"the API does not answer: {type(error).__name__}") from None
    if not answer.is_success:
        raise refusal(answer)
    return answer.json()  # type: ignore[no-any-return]  # as the API describes it


def refusal(answer: httpx2.Response) -> Declined | Unavailable:
    """Return the API's error as Declined, whichever shape the body has."""
    try:
        fields = answer.json()
        texts = [each["message"] for each in fields.get("errors", [])] or [fields["message"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        texts = [answer.reason_phrase]
    words = f"{answer.status_code}: {' '.join(map(str, texts))}"
    return Unavailable(words) if answer.status_code in AGAIN else Declined(words)


def data(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the job in an answer."""
    found: dict[str, Any] = answer["data"]
    return found
