"""`courant topics diff|apply` and `courant db upgrade`."""

from typing import Annotated

import typer
from rich.console import Console

from courant.kafka import topics_admin
from courant.postgres import migrate
from courant_cli.installation import Installation

topics = typer.Typer(
    help="Compare the cluster's topics with their declarations, and create them.",
    no_args_is_help=True,
)
db = typer.Typer(help="Upgrade the database's schema.", no_args_is_help=True)
console = Console(highlight=False)


@topics.command()
def diff() -> None:
    """Show how the cluster differs from the declared topics. The exit code is 1 if it does."""
    installation = Installation()
    with installation.admin() as admin:
        topics_admin.refuse_fewer(admin, installation.topics.partitions)
        found = topics_admin.diff(
            admin, installation.topics.courant_replication, installation.topics.partitions
        )
    console.print("\n".join(map(str, found)) or "The cluster has all that is declared.")
    raise typer.Exit(1 if found else 0)


@topics.command()
def apply(
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Also apply if the cluster has Courant's topics under another prefix only.",
        ),
    ] = False,
) -> None:
    """Create missing topics, add partitions and change settings. Deletes nothing."""
    installation = Installation()
    with installation.admin() as admin:
        topics_admin.refuse_fewer(admin, installation.topics.partitions)
        done = topics_admin.apply(
            admin, installation.topics.courant_replication, installation.topics.partitions, beside
        )
    console.print("\n".join(map(str, done)) or "The cluster had all that is declared.")


def tell(line: str) -> None:
    """Print a line at once, though the command goes on."""
    console.print(line, markup=False, soft_wrap=True)


@db.command()
def upgrade() -> None:
    """Upgrade the schema to this version. Never waits longer than 2 s for a lock; tries again.

    Records the server's identity if nothing was ever written.
    """
    installation = Installation()
    with installation.admin() as admin:
        migrate.prepare(installation.variable("DATABASE_URL"), admin, tell)
    console.print("The schema is this version's.")
