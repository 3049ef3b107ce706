"""Changing the directory: a row, and the record that tells everybody.

A change takes a new number, writes the row, publishes under the row's lock and commits once the
record is acknowledged: who dies in between has published a version that the next change passes,
and recovery's sweep puts the row's version out again.
"""

import msgspec
from sqlalchemy import Engine, text

from courant.directory import entries
from courant.directory.entries import AnyEntry
from courant.kafka.producer import KafkaProducer
from courant.records import Outgoing
from courant.topics import DIRECTORY

LOCK = text("SELECT pg_advisory_xact_lock(hashtext('courant.directory/' || :key))")
# Later than any that was given before, also where the sequence was put back with Postgres.
NUMBER = text("""
    SELECT setval('directory_number', greatest(nextval('directory_number'),
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))""")
PUT = text("""
    INSERT INTO directory (key, number, value) VALUES (:key, :number, :value)
    ON CONFLICT (key) DO UPDATE SET number = excluded.number, value = excluded.value""")
ALL = text("SELECT value FROM directory ORDER BY number")


def put(engine: Engine, producer: KafkaProducer, entry: AnyEntry) -> AnyEntry:
    """Store an entry under a new number and publish it; gives it back. Raises Unavailable."""
    with engine.begin() as connection:
        connection.execute(LOCK, {"key": entry.key})
        number = connection.execute(NUMBER).scalar_one()
        entry = msgspec.structs.replace(entry, number=number)
        value = entries.encode(entry)
        connection.execute(PUT, {"key": entry.key, "number": number, "value": value})
        producer.produce(Outgoing(DIRECTORY.name, entry.key.encode(), value))
        producer.flush()
    return entry


def load(engine: Engine) -> entries.Directory:
    """Read the whole directory from Postgres."""
    found = entries.Directory()
    with engine.begin() as connection:
        for (value,) in connection.execute(ALL):
            entries.apply(found, bytes(value))
    return found
