"""Reconciles the directory's rows with its topic: the later version of each entry wins.

A row is later if the topic was lost and Postgres was not. A record is later if a change was
published and its transaction failed, or if Postgres was put back. The SQL stands here, beside the
function that uses it.
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
# Whoever changes an entry holds this lock until the change is committed.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('courant.directory/' || %(key)s))"
VALUE = "SELECT number, value FROM directory WHERE key = %(key)s"
TAKE_OVER = """
    INSERT INTO directory AS d (key, number, value) VALUES (%(key)s, %(number)s, %(value)s)
    ON CONFLICT (key) DO UPDATE SET number = excluded.number, value = excluded.value
    WHERE d.number < excluded.number"""
# A sequence that was put back with Postgres must not return a number that the topic has already.
CATCH_UP = "SELECT setval('directory_number', greatest(nextval('directory_number'), %(number)s))"


def reconcile(store: PostgresStore, tools: Tools, limit: int) -> int:
    """Publish rows that are later than the topic, store records that are later than their row.

    Returns the number of entries that differed. Does nothing until the topic has been read to its
    end, because until then every entry seems to be missing in it.
    """
    published = tools.directory
    if not published.is_read:
        return 0
    with store.sweeping() as rows:
        in_topic = {key: entry.number for key, entry in published.entries.items()}
        stored = dict(rows.fetch(NUMBERS))
        keys = {**stored, **in_topic}
        differ = [key for key in keys if stored.get(key) != in_topic.get(key)][:limit]
    for key in differ:
        with store.sweeping() as rows:
            settle(rows, key, published.entries.get(key), tools.producer)
    return len(differ)


def settle(rows: PostgresRows, key: str, published: AnyEntry | None, producer: Producer) -> None:
    """Bring one row and its record to the later version, under the entry's lock."""
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
