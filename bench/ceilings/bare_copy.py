"""The ceiling of saving: the same rows and events, by COPY and INSERT … ON CONFLICT alone."""

import io
import time
from collections.abc import Sequence
from operator import attrgetter

import psycopg2

from courant.contracts import Notification
from courant.postgres.database import copy_lines
from courant.postgres.tables import notifications

BATCH_ROWS = 2_000
"""The largest batch that the saver takes."""
COLUMNS = tuple(name for name in Notification.__struct_fields__ if name in notifications.c)
NAMES = ", ".join(COLUMNS)
INCOMING = """
    CREATE TEMPORARY TABLE incoming (LIKE notifications INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"""
COPY = f"COPY incoming ({NAMES}) FROM STDIN"
INSERT = f"""
    INSERT INTO notifications ({NAMES}) SELECT {NAMES} FROM incoming ON CONFLICT (id) DO NOTHING"""
EVENTS = "INSERT INTO events (id, move, attempt) SELECT id, 'saved', 0 FROM incoming"


def batches(rows: Sequence[Notification]) -> list[io.StringIO]:
    """Write the rows as COPY reads them, one text for each batch."""
    values = list(map(attrgetter(*COLUMNS), rows))
    starts = range(0, len(values), BATCH_ROWS)
    return [copy_lines(values[start : start + BATCH_ROWS]) for start in starts]


def save(url: str, prepared: Sequence[io.StringIO]) -> float:
    """Store the batches, a transaction each; return the seconds from the first to the last."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(INCOMING)
        connection.commit()
        began = time.perf_counter()
        for batch in prepared:
            batch.seek(0)
            cursor.copy_expert(COPY, batch)
            cursor.execute(INSERT)
            cursor.execute(EVENTS)
            connection.commit()
        seconds = time.perf_counter() - began
    connection.close()
    return seconds
