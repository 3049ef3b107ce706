"""The `courant` command: its sub-commands, and how it reports errors."""

import sys
from typing import Annotated, NoReturn

import psycopg2
import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from courant import version
from courant.errors import Refused, Unavailable
from courant.kafka.topics_admin import FewerPartitions, FewerReplicas, OtherPrefix
from courant.postgres.database import kind_of
from courant.postgres.grants import RoleMissing
from courant_cli import (
    dead,
    entries,
    failed,
    job,
    load,
    restore,
    schema,
    send,
    services,
    stack,
    trace,
)
from courant_cli.jobs_api import Declined
from courant_local.child import NotReady
from courant_local.control import Failed
from courant_local.home import Occupied
from courant_local.jars import JarsMissing
from courant_local.plan import CommandError
from courant_local.ports import PortTaken, PortUnusable
from courant_local.postgres import Unreachable

SAID = (
    Declined,
    Failed,
    FewerPartitions,
    FewerReplicas,
    JarsMissing,
    NotReady,
    OtherPrefix,
    Occupied,
    PortTaken,
    PortUnusable,
    Refused,
    RoleMissing,
    Unavailable,
    Unreachable,
    CommandError,
)
"""Errors whose cause is outside of this program: the message is enough, without a traceback."""

app = typer.Typer(
    help="Run and operate Courant, which accepts, stores and sends notifications.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"courant {version.VERSION}, commit {version.BUILD.commit}")
        raise typer.Exit


@app.callback()
def courant(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and the commit, and exit.",
            is_eager=True,
            callback=show_version,
        ),
    ] = False,
) -> None:
    pass


app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(stack.env)
app.command()(trace.trace)
app.command()(load.load)
app.command()(restore.restore)
app.add_typer(send.send, name="send")
app.add_typer(job.job, name="job")
app.add_typer(dead.app, name="dead")
app.add_typer(failed.app, name="failed")
app.add_typer(services.app, name="service")
app.add_typer(entries.key, name="key")
app.add_typer(entries.template, name="template")
app.add_typer(entries.sender, name="sender")
app.add_typer(schema.topics, name="topics")
app.add_typer(schema.db, name="db")


def main() -> None:
    try:
        app()
    except SAID as raised:
        leave(str(raised))
    except (DBAPIError, psycopg2.Error) as raised:
        error = raised.orig if isinstance(raised, DBAPIError) else raised
        # Of any other error the traceback is needed: it has the statement.
        if not isinstance(error, psycopg2.Error) or kind_of(error) is not Unavailable:
            raise
        leave(f"Postgres: {str(error).strip().splitlines()[0]}")


def leave(line: str) -> NoReturn:
    """End the command with one line that says what is wrong."""
    Console(stderr=True, highlight=False).print(f"courant: {line}", markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
