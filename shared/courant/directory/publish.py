"""Changes the directory: a row in Postgres, and a record that all services read.

A change takes a new number, writes the row, publishes the record under the row's lock, and commits
once the record is acknowledged. If the process dies before it commits, the row lacks the published
version. Recovery's sweep then stores that version in the row, and the next change has a higher
number.
"""

import msgspec
from sqlalchemy import Engine, text

from courant.directory import entries
from courant.directory.entries import AnyEntry
from courant.kafka.producer import KafkaProducer
from courant.records import Outgoing
from courant.topics import DIRECTORY

LOCK = text("SELECT pg_advisory_xact_lock(hashtext('courant.directory/' || :key))")
# Higher than any number before, even if a restore of Postgres has put the sequence back.
NUMBER = text("""
    SELECT setval('directory_number', greatest(nextval('directory_number'),
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))""")
PUT = text("""
    INSERT INTO directory (key, number, value) VALUES (:key, :number, :value)
    ON CONFLICT (key) DO UPDATE SET number = excluded.number, value = excluded.value""")
ALL = text("SELECT value FROM directory ORDER BY number")


def put(engine: Engine, producer: KafkaProducer, entry: AnyEntry) -> AnyEntry:
    """Store an entry under a new number, publish it and return it; raises Unavailable."""
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
    """Return the whole directory, read from Postgres."""
    directory = entries.Directory()
    with engine.begin() as connection:
        for (value,) in connection.execute(ALL):
            entries.apply(directory, bytes(value))
    return directory
