"""`courant up`, `down`, `status`, `env`: manage the local stack."""

import json
import shlex
import subprocess
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from courant_cli import demo, figures, installation
from courant_local import control, home, jars, plan, processes
from courant_local.plan import CommandError, Plan

SHOWN_EVERY_SECONDS = 1
COLOURS = {"ready": "green", "starting": "yellow", "restarting": "yellow", "frozen": "cyan"}

console = Console(highlight=False)


def up(
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Return once all processes are ready. The stack keeps running."
        ),
    ] = False,
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Do not restart a process that ends.")
    ] = False,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N", help="NAME=N runs N instances of a service, such as saver=2."
        ),
    ] = None,
    brokers: Annotated[
        int | None,
        typer.Option(
            help="Number of Kafka brokers, 1 or 3. It cannot change once the stack has started."
        ),
    ] = None,
) -> None:
    """Start Kafka, PostgreSQL, the sandbox and every service, and send a demo email and SMS."""
    wanted = plan.make(home.home(), brokers, scales(scale or []), restart=not no_restart)
    fetch_jars()
    supervisor = control.launch(wanted, tied=not detach)
    try:
        show_start(wanted, supervisor)
        demo.run(wanted)
        show_links(wanted)
        if detach:
            return
        watch(wanted)
    except BaseException as raised:  # a half-started or unwatched stack must not stay behind
        console.print("Stopping …")
        control.stop(wanted.home)
        if not isinstance(raised, KeyboardInterrupt):
            raise


def down() -> None:
    """Stop the stack, services first."""
    place = home.home()
    stopped = control.stop(place)
    console.print("Stopped." if stopped else f"No stack runs from {place}.")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Show the current state of each process. The exit code is 1 unless all are ready."""
    place = home.home()
    processes = control.status(place)
    if as_json:
        print(json.dumps(processes, indent=2))
    elif processes:
        console.print(table(processes))
    else:
        console.print(f"No stack was started from {place}.")
    if not processes or any(process["state"] != "ready" for process in processes):
        raise typer.Exit(1)


def env() -> None:
    """Print the settings for a client or a test as shell lines: `eval "$(courant env)"`."""
    place = home.home()
    for name, value in installation.variables(
        Plan.from_json(home.read(place / "stack.json")["plan"])
    ).items():
        print(f"export {name}={shlex.quote(value)}")


def scales(asked: list[str]) -> dict[str, int]:
    """Parse the NAME=N options; raises CommandError."""
    known = {service.kind for service in processes.SERVICES}
    numbers = {}
    for each in asked:
        name, _, number = each.partition("=")
        if name not in known or not number.isdecimal():
            wanted = ", ".join(sorted(known))
            raise CommandError(f'--scale needs NAME=N with NAME one of {wanted}; got "{each}"')
        numbers[name] = int(number)
    return numbers


def fetch_jars() -> None:
    """Fetch Kafka's jars unless they are here, and show a progress bar meanwhile."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, console=console)
    shown = progress.add_task("Kafka's jars, once", total=None)

    def heard(here: int, of_all: int) -> None:
        progress.start()  # only now, because nothing is shown if the jars are here already
        progress.update(shown, completed=here, total=of_all)

    try:
        jars.class_path(heard)
    finally:
        progress.stop()


def show_start(wanted: Plan, supervisor: subprocess.Popen[bytes]) -> None:
    """Print each step as it begins, until all processes are ready."""
    began = time.monotonic()
    steps: list[str] = []

    def heard(stack: Mapping[str, Any]) -> None:
        if stack["step"] and stack["step"] not in steps:
            steps.append(stack["step"])
            console.print(f"{time.monotonic() - began:5.1f} s  {stack['step']}")

    control.follow(wanted, supervisor, heard)
    console.print(f"{time.monotonic() - began:5.1f} s  all is ready")


def show_links(wanted: Plan) -> None:
    """Print the stack's addresses, and a command that sends one notification."""
    console.print(f"\n  API      {wanted.url}")
    console.print(f"  sandbox  {wanted.sandbox_url}")
    console.print(f"  logs     {wanted.home / 'log'}")
    known = installation.variables(wanted)
    body = {
        "template_id": known["COURANT_EMAIL_TEMPLATE_ID"],
        "email_address": demo.EMAIL,
        "personalisation": {"name": "Amal"},
    }
    console.print(
        f"\n  curl -H 'Authorization: ApiKey-v1 {known['COURANT_API_KEY']}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}' "
        f"{wanted.url}/v2/notifications/email\n",
        soft_wrap=True,
    )


def watch(wanted: Plan) -> None:
    """Show one line of figures each second until Ctrl-C; raises Failed if the stack ends."""
    with Live(console=console, auto_refresh=False) as live:
        while control.runs(wanted.home):
            live.update(f"{figures.line(wanted)}   Ctrl-C stops all", refresh=True)
            time.sleep(SHOWN_EVERY_SECONDS)
    raise control.Failed(home.read(wanted.home / "stack.json")["error"] or "the stack was stopped")


def table(found: list[dict[str, Any]]) -> Table:
    """Return the table of processes for a terminal."""
    drawn = Table("name", "state", "pid", "restarts", box=None)
    drawn.add_column("url", overflow="fold")
    drawn.add_column("health port")  # not the URL: two of them would not fit into 80 columns
    for each in found:
        colour = COLOURS.get(each["state"], "red")
        state = f"[{colour}]{each['state']}[/]"
        pid = str(each["pid"] or "")
        restarts, health = str(each["restarts"]), (each["health"] or "").rpartition(":")[2]
        drawn.add_row(each["name"], state, pid, restarts, each["url"], health)
    return drawn
