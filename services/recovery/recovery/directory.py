"""The directory's rows and its topic, made to say the same: of each entry the later version holds.

A row is later where Postgres lived and the topic did not, a record where a change was published
and its transaction died, or where Postgres was put back. The SQL stands beside what it is for.
"""

import logging

from courant.consume import Producer
from courant.directory import entries
from courant.directory.entries import AnyEntry
from courant.records import Outgoing
from courant.topics import DIRECTORY
from recovery.store import PostgresRows, PostgresStore
from recovery.sweeps import Tools

log = logging.getLogger(__name__)

NUMBERS = "SELECT key, number FROM directory"
# The one that whoever changes an entry holds until the change is committed.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('courant.directory/' || %(key)s))"
VALUE = "SELECT number, value FROM directory WHERE key = %(key)s"
TAKE_OVER = """
    INSERT INTO directory AS d (key, number, value) VALUES (%(key)s, %(number)s, %(value)s)
    ON CONFLICT (key) DO UPDATE SET number = excluded.number, value = excluded.value
    WHERE d.number < excluded.number"""
# A sequence that was put back with Postgres must not give a number again that the topic knows.
CATCH_UP = "SELECT setval('directory_number', greatest(nextval('directory_number'), %(number)s))"


def reconcile(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Put out the rows that the topic lacks, take over what it has newer; tell how many differed.

    Does nothing until the topic was read to its end: all would seem to be missing in it.
    """
    published = tools.directory
    if not published.is_read:
        return 0
    with store.sweeping() as rows:
        there = {key: entry.number for key, entry in published.entries.items()}
        here = dict(rows.fetch(NUMBERS))
        differ = [key for key in {**here, **there} if here.get(key) != there.get(key)][:limit]
    for key in differ:
        with store.sweeping() as rows:
            settle(rows, key, published.entries.get(key), tools.producer)
    return len(differ)


def settle(rows: PostgresRows, key: str, published: AnyEntry | None, producer: Producer) -> None:
    """Make one row and its record say the same, under the row's lock."""
    rows.fetch(LOCK, key=key)
    number, value = next(iter(rows.fetch(VALUE, key=key)), (-1, b""))
    if published is None or number > published.number:
        producer.produce(Outgoing(DIRECTORY.name, key.encode(), bytes(value)))
        producer.flush()
        log.info("directory entry published again", extra={"key": key, "number": number})
    elif number < published.number:
        entry = entries.encode(published)
        rows.run(TAKE_OVER, key=key, number=published.number, value=entry)
        rows.fetch(CATCH_UP, number=published.number)
        log.warning(
            "directory entry taken from its topic",
            extra={"key": key, "number": published.number},
        )
