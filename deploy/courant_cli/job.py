"""`courant job submit|list|watch|cancel|pause|resume|report`: sends files with many rows."""

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from courant.errors import Unavailable
from courant_cli import jobs_api
from courant_cli.dead import console as out
from courant_cli.dead import plain
from courant_cli.jobs_api import asked, data, fetch, looked_up, upload

job = typer.Typer(help="Send a CSV file of many rows, and follow its job.", no_args_is_help=True)
OVER = {"finished": 0, "cancelled": 1, "error": 1}
"""The final states, at which `watch` ends, with the exit code of each."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@job.command()
def submit(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    template: Annotated[str, typer.Option(help="The template's id.")],
    name: Annotated[
        str | None, typer.Option(help="The job's name. By default the file's name.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="When to begin, such as 2030-01-31T08:00:00-05:00.")
    ] = None,
    reply_to: Annotated[
        str | None, typer.Option(help="The id of a reply-to address or an SMS sender.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="The key of an upload that broke off, to try it again. By default a new key."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--watch", help="Watch the job until it is over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a CSV file. Its first row names the recipient's column and the placeholders."""
    key = idempotency_key or str(uuid.uuid4())
    fields = {"template_id": template, "name": name or file.name, "scheduled_for": schedule,
              "reply_to_id": reply_to}  # fmt: skip
    given = {field: value for field, value in fields.items() if value is not None}
    jobs_api.console.print(f"Idempotency-Key {key}", soft_wrap=True)
    with jobs_api.client() as api:
        try:
            found = upload(api, file, given, key)
        except Unavailable as error:
            again = f"send it again with --idempotency-key {key}: it will be one job"
            raise Unavailable(f"{error}; {again}") from None
        if not follow:
            show(found, as_json)
            return
        jobs_api.console.print(f"job {found['id']}")
        follow_job(api, found["id"], as_json)


@job.command("list")
def list_jobs(
    older_than: Annotated[
        str | None, typer.Option(help="Show the page that follows the job with this id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs, fifty on a page."""
    with jobs_api.client() as api:
        params = {"older_than": older_than} if older_than else None
        found = asked(api, "GET", "/v2/jobs", params=params)["jobs"]
    if as_json:
        print(json.dumps(found))
        return
    drawn = Table(box=None)
    for column in ("id", "created", "state", "rows"):
        drawn.add_column(column, no_wrap=True)
    drawn.add_column("file", overflow="fold", min_width=10)
    for each in found:
        # Text, not str: rich would read markup in a file's name.
        name = Text(plain(each["original_file_name"] or ""))
        rows = str(each["notification_count"])
        drawn.add_row(each["id"], each["created_at"][:16], each["job_status"], rows, name)
    out.print(drawn)


@job.command()
def watch(id: uuid.UUID, as_json: AsJson = False) -> None:
    """Watch a job until it is over. The exit code is 0 if it finished, otherwise 1."""
    with jobs_api.client() as api:
        follow_job(api, str(id), as_json)


@job.command()
def cancel(id: uuid.UUID, as_json: AsJson = False) -> None:
    """Cancel a job for good: its waiting rows are never sent."""
    send_command(id, "cancel", as_json)


@job.command()
def pause(id: uuid.UUID, as_json: AsJson = False) -> None:
    """Pause a job."""
    send_command(id, "pause", as_json)


@job.command()
def resume(id: uuid.UUID, as_json: AsJson = False) -> None:
    """Resume a paused job."""
    send_command(id, "resume", as_json)


@job.command()
def report(
    id: uuid.UUID,
    output: Annotated[
        Path | None,
        typer.Option(help="The file to write, or - for standard output. By default job-ID.csv."),
    ] = None,
) -> None:
    """Save a CSV of all rows of the job, each with the row's state."""
    place = output or Path(f"job-{id}.csv")
    with jobs_api.client() as api:
        if str(place) == "-":
            fetch(api, id, sys.stdout.buffer)
            return
        # The file gets its final name only once it is complete.
        part = place.with_name(f"{place.name}.part")
        try:
            with part.open("wb") as file:
                fetch(api, id, file)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    jobs_api.console.print(f"{place}  {place.stat().st_size:,} bytes")


def send_command(id: uuid.UUID, verb: str, as_json: bool) -> None:
    """Send a command (cancel, pause, resume) to a job."""
    with jobs_api.client() as api:
        show(data(asked(api, "POST", f"/v2/jobs/{id}/{verb}")), as_json)


def follow_job(api: httpx2.Client, id: str, as_json: bool) -> None:
    """Show a job's progress until it is over, then exit with the code of its final state."""
    columns = (
        TextColumn("{task.fields[standing]}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[told]}", table_column=Column(overflow="fold")),
    )
    try:
        with Progress(*columns, console=jobs_api.console) as progress:
            shown = progress.add_task("", total=None, standing="", told="")
            while True:
                found = looked_up(api, id)
                progress.update(
                    shown,
                    total=found["notification_count"],
                    completed=found["saved"],
                    standing=found["job_status"],
                    told=line(found),
                )
                if found["job_status"] in OVER:
                    break
                time.sleep(jobs_api.LOOK_SECONDS)
    except KeyboardInterrupt:
        jobs_api.console.print(
            f"\nNo longer watched; the job goes on. Again: courant job watch {id}", soft_wrap=True
        )
        raise typer.Exit(130) from None
    show(found, as_json)
    raise typer.Exit(OVER[found["job_status"]])


def line(found: dict[str, Any]) -> str:
    """Return one line with the job's row counts, its rate and its estimated end."""
    told = [f"{count:,} {name}" for name, count in sorted(found["counts"].items())]
    if found["rows_per_second"]:
        told.append(f"{found['rows_per_second']:,.0f}/s")
    if found["estimated_finish"]:
        told.append(f"until about {found['estimated_finish'][11:19]} UTC")
    return "  ".join(told)


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print a job on standard output."""
    if as_json:
        print(json.dumps(found))
        return
    name = plain(found["original_file_name"] or "")
    rows = f"{found['notification_count']:,} rows"
    told = line(found) if "counts" in found else ""
    words = "  ".join(filter(None, (found["id"], found["job_status"], rows, name, told)))
    out.print(words, markup=False, soft_wrap=True)
