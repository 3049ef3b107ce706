"""`courant dead list|show|redrive`: lists dead letters and sends them back after a repair."""

import getpass
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from confluent_kafka import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import text

from courant import topics
from courant.contracts import Decided
from courant.errors import Unavailable
from courant.idempotency import OTHER_BODY
from courant.kafka import clients, offsets
from courant.kafka.reader import TopicReader, read_to_end
from courant.lifecycle import Move
from courant.postgres.database import classified_errors
from courant.postgres.tables import WITH_CONTENT
from courant.records import Outgoing
from courant.topics import DELIVERY, FAMILIES, PERSISTED
from courant_cli.installation import NAME, Installation
from courant_local.plan import CommandError

app = typer.Typer(help="List, show and send back dead letters.", no_args_is_help=True)
SHOWN_BYTES = 2_000
ID_BYTES = 16
WIDE = 250  # columns where no terminal sets a width, so that no column wraps

console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)

# What was sent is not sent again because its receipt was bad news: that may be redriven only if no
# provider accepted it. A technical failure says itself that its outcome is not known. A request
# that lost its Idempotency-Key was refused, so it is never sent.
REDRIVABLE = f"""(n.state = 'technical-failure' AND n.reason IS DISTINCT FROM '{OTHER_BODY}'
    OR n.state IN ('permanent-failure', 'provider-failure') AND n.sent_at IS NULL)"""
NOTE = text("""
    INSERT INTO redrives (topic, partition, "offset", by) VALUES (:topic, :partition, :offset, :by)
    ON CONFLICT DO NOTHING RETURNING at""")
NOTED = text('SELECT topic, partition, "offset", by, at FROM redrives')
STANDS = text(
    f"SELECT attempt, {WITH_CONTENT} FROM notifications n WHERE id = :id AND {REDRIVABLE}"  # noqa: S608  # our own words
)
NOT_FAILED = "its notification has not failed, or was sent: nothing to do"
EMPTIED = "its retention is over and its content is emptied: nothing is left to send"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. In commands its number names it: topic/partition/offset."""

    topic: str
    partition: int
    offset: int
    at: datetime
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    tries: int  # how many times this record has been dead-lettered

    @property
    def number(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    def header(self, name: str) -> str:
        """Return a header's last value: after two deaths the record has both deaths' headers."""
        return dict(self.headers).get(f"courant.{name}", b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of `courant dead list`."""

    number: str
    key: str
    died: str
    origin: str
    tries: int
    reason: str
    sent_back: str  # by whom and when; empty if never


@app.command("list")
def list_letters(
    family: Annotated[
        str | None, typer.Option(help="Only this family of topics: inbox, delivery, persisted, …")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List every dead letter that is still kept, with its reason."""
    installation = Installation()
    try:
        sent, unknown = redriven(installation), ""
    except Unavailable as unavailable:
        sent, unknown = {}, f"Postgres does not answer ({unavailable})"
    lines = [
        Line(
            number=each.number,
            key=each.key.hex(),
            died=f"{each.at:%Y-%m-%d %H:%M:%S}",
            origin=each.header("origin"),
            tries=each.tries,
            reason=each.header("reason"),
            sent_back=sent.get(
                (each.topic, each.partition, each.offset), "unknown" if unknown else ""
            ),
        )
        for each in letters(installation, family)
    ]
    if unknown:
        note = f"courant: {unknown}: which letters were sent back is not known"
        Console(stderr=True, highlight=False).print(note, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(each) for each in lines], indent=2))
        return
    drawn = Table("number", "died", "from", "tries", "reason", "sent back", box=None)
    for line in lines:
        # Text, not str: rich would read markup in whatever bytes the record held.
        shown = (line.number, line.died, line.origin, str(line.tries), line.reason, line.sent_back)
        drawn.add_row(*(Text(plain(each)) for each in shown))
    console.print(drawn)


@app.command()
def show(number: str) -> None:
    """Show one dead letter: its origin, the reason, and its first bytes."""
    each = letter(Installation(), number)
    told = [
        *(f"{name}: {value.decode(errors='backslashreplace')}" for name, value in each.headers),
        f"key: {each.key.hex()}",
        f"value, {len(each.value)} bytes:",
        each.value[:SHOWN_BYTES].decode(errors="backslashreplace"),
    ]
    for line in told:
        console.print(plain(line), markup=False, soft_wrap=True)


def plain(text: str) -> str:
    """Escape control characters, so that the terminal shows them and does not obey them."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


@app.command()
def redrive(
    number: Annotated[str, typer.Argument(help="One number from `courant dead list`, or all.")],
    family: Annotated[
        str | None, typer.Option(help="With all: only this family of topics.")
    ] = None,
    again: Annotated[
        bool, typer.Option(help="Also send back a letter that was sent back before.")
    ] = False,
) -> None:
    """Send dead letters back to their topic, once their cause is repaired."""
    installation = Installation()
    chosen = (
        list(letters(installation, family)) if number == "all" else [letter(installation, number)]
    )
    for each in chosen:
        console.print(f"{each.number}: {send_back(installation, each, again)}", markup=False)


def send_back(installation: Installation, each: Letter, again: bool) -> str:
    """Send one letter back, record the operator, and return a sentence that reports the result."""
    if cut := each.header("cut"):
        return f"was {cut}, too large to be written: only its beginning is kept"
    who = getpass.getuser()
    spot = {"topic": each.topic, "partition": each.partition, "offset": each.offset, "by": who}
    with installation.engine.begin() as connection:
        if topics.family(each.topic) == PERSISTED.name:
            back: Outgoing | str = order_again(connection, each)
        else:
            headers = (*each.headers, ("courant.redriven-by", who.encode()))
            back = Outgoing(origin(each), each.key, each.value, headers)
        if isinstance(back, str):
            return back
        if not connection.execute(NOTE, spot).first() and not again:
            return "was sent back before; --again does it again"
        # Inside the transaction: if the write to Kafka fails, the letter is not recorded as sent
        # back.
        installation.producer.produce(back)
        installation.producer.flush()
    return f"sent back to {back.topic}"


def origin(each: Letter) -> str:
    """Return the topic that a letter came from; raises CommandError if its header is missing."""
    topic = each.header("origin").split("/")[0]
    if not topic:
        raise CommandError(f"{each.number} does not say where it came from")
    return topic


def order_again(connection: Any, each: Letter) -> Outgoing | str:
    """Return the move that lets recovery order the notification again, or why it may not.

    It is for an order that died.
    """
    id = UUID(bytes=each.key) if len(each.key) == ID_BYTES else None
    stands = connection.execute(STANDS, {"id": id}).first()
    if id is None or stands is None:
        return NOT_FAILED
    attempt, has_content = stands
    return redrive_order(id, attempt) if has_content else EMPTIED


def redrive_order(id: UUID, attempt: int) -> Outgoing:
    """Build the decision that brings a failed notification back to `created`."""
    decided = Decided(id=id, attempt=attempt, move=Move.REDRIVEN, reason="sent back by an operator")
    return Outgoing(DELIVERY.name, id.bytes, decided.encode())


def redriven(installation: Installation) -> dict[tuple[str, int, int], str]:
    """Return the operator and time of each letter that was sent back; raises Unavailable."""
    with classified_errors(), installation.engine.begin() as connection:
        return {(topic, partition, offset): f"{by}, {at:%Y-%m-%d %H:%M}"
                for topic, partition, offset, by, at in connection.execute(NOTED)}  # fmt: skip


def letter(installation: Installation, number: str) -> Letter:
    """Return one letter; raises CommandError."""
    topic, _, rest = number.partition("/")
    for each in letters(installation, topics.family(topic)):
        if each.number == f"{topic}/{rest}":
            return each
    raise CommandError(f"no dead letter has the number {number}; `courant dead list` shows all")


def letters(installation: Installation, family: str | None = None) -> Iterator[Letter]:
    """Yield every dead letter that is kept, of one family or of all."""
    names = [topics.dead(each.name) for each in FAMILIES
             if each.consumed and family in (None, each.name)]  # fmt: skip
    if not names:
        raise CommandError(f"no family of topics is called {family}")
    with installation.admin() as client:
        partitions = offsets.partitions(client, names)
    reader = TopicReader(
        installation.cluster, NAME, [(each.topic, each.number) for each in partitions]
    )
    orders: Counter[tuple[str, bytes]] = Counter()
    try:
        for message in read_to_end(reader):
            yield read(installation.cluster, message, orders)
    finally:
        reader.close()


def read(cluster: clients.Cluster, message: Message, orders: Counter[tuple[str, bytes]]) -> Letter:
    topic, key = cluster.name_of(str(message.topic())), message.key() or b""
    headers = tuple(clients.headers_of(message))
    # An order that died is issued again and not sent back, so its headers hold no earlier deaths.
    orders[topic, key] += topics.family(topic) == PERSISTED.name
    tries = dict(headers).get("courant.attempt", b"1")
    return Letter(
        topic=topic,
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at=datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
        key=key,
        value=message.value() or b"",
        headers=headers,
        tries=max(orders[topic, key], int(tries) if tries.isdigit() else 1),
    )
