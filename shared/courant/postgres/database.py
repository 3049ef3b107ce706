"""The thin edge to PostgreSQL: servers recognised, errors told apart, COPY's text format."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2.extras import register_uuid
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from courant.errors import Refused, Unavailable
from courant.postgres.holds import Scope

UNAVAILABLE = ("08", "25006", "40", "42501", "53", "55000", "55P03", "57")
"""SQLSTATEs, or their beginnings, that are no record's fault; 55000 is a standby that was asked.

42501 is a right that our role lacks: records wait for the grant, and are not put aside.
"""

register_uuid()  # type: ignore[no-untyped-call]  # arrays of UUIDs, both ways

# Renews one that stands: what it waits for has begun again. Empties the marks: their times may come
# from another server's clock. `jobs` holds the bulk lane until it is known again which jobs were
# cancelled or paused: the other lanes need not wait for job-runner.
HOLD = f"""
    WITH emptied AS (DELETE FROM marks)
    INSERT INTO holds (scope, reason)
    SELECT scope, %s FROM unnest(ARRAY['{Scope.REBUILD}', '{Scope.JOBS}']) AS scope
    ON CONFLICT (scope) DO UPDATE
    SET reason = excluded.reason, raised_at = now(), stands = true"""  # noqa: S608  # names of ours
# The timeline is read from the log's file name: pg_control_checkpoint() shows that of the last
# checkpoint, and told the old one for seconds after a promotion (seen on 18). The time of the start
# tells a disk that was put back; as a number, since its text changes with the session's zone. The
# database and the file of `positions` tell a dump that was loaded into a server that goes on.
FINGERPRINT = """
    SELECT concat_ws('/', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        extract(epoch FROM pg_postmaster_start_time()), d.oid, pg_relation_filenode('positions'))
    FROM pg_control_system(), pg_database d WHERE d.datname = current_database()"""
RECOGNISE = f"INSERT INTO servers (id) {FINGERPRINT} ON CONFLICT DO NOTHING"


def engine(
    url: str,
    service: str,
    connections: int | None,
    statement_seconds: int = 60,
    session: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Engine:
    """Return an engine whose pool holds at most so many connections; with None, it has no pool.

    Without a pool, every connection is a new one. A lost connection is an error of the next
    statement. `session` holds further settings of the server for each connection, `options` further
    ones of SQLAlchemy's.
    """
    if connections is None:
        options["poolclass"] = NullPool
    else:
        options |= {"pool_size": connections, "max_overflow": 0, "pool_timeout": 5}
    settings = {
        "statement_timeout": f"{statement_seconds}s",
        "idle_in_transaction_session_timeout": "60s",
        **session,
    }
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg2"),
        connect_args={
            "connect_timeout": 3,
            "application_name": f"courant-{service}",
            # A connection whose other end is gone without a word is noticed within seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
        **options,
    )


def why_unreachable(engine: Engine) -> str | None:
    """Ask whether Postgres answers: None, or why not."""
    try:
        with classified_errors(), engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
    except (Unavailable, Refused) as error:
        return f"Postgres: {error}"
    return None


def hold_after_restart(cursor: psycopg2.extensions.cursor) -> None:
    """Raise the hold if this start of a server was not seen before; it may lack what was folded.

    Belongs into each transaction that folds or claims: poolers hide that a connection is another.
    Only who makes the schema, and sees every topic empty, recognises a server without a hold. That
    there are no positions proves nothing: a backup may be older than the first.
    """
    cursor.execute(RECOGNISE)
    if cursor.rowcount:
        cursor.execute(HOLD, ["another server, or another start of it"])


@contextmanager
def classified_errors() -> Iterator[None]:
    """Raise Unavailable for the errors that are weather, Refused for all others."""
    try:
        yield
    except NoConnection as raised:
        raise Unavailable("no connection is free") from raised
    except (psycopg2.Error, DBAPIError) as raised:
        error = raised.orig if isinstance(raised, DBAPIError) else raised
        assert isinstance(error, psycopg2.Error)
        reason = f"{error.pgcode}: {type(error).__name__}"
        raise (Unavailable if is_unavailable(error) else Refused)(reason) from raised


def is_unavailable(error: psycopg2.Error) -> bool:
    """Tell whether the same statement may succeed later.

    By SQLSTATE, not by class: psycopg2 calls a value too long for its index an OperationalError,
    and as weather that one row would stop its partition for ever.
    """
    code = error.pgcode or "08"  # no code: the connection is gone
    # A check violation that names no constraint means that the day's partition is not there yet.
    no_partition = code == "23514" and not error.diag.constraint_name
    return no_partition or code.startswith(UNAVAILABLE)


def array(ids: Iterable[UUID]) -> str:
    """Write ids as PostgreSQL writes a uuid[].

    A statement names the rows that it is about by `id = ANY` of it, also where a join says so: the
    planner looks into these ids' days alone, and knows how many rows they are. Of a range of ids
    that are younger than the day's last ANALYZE it expects one row, and then reads all of the range
    for each (500 moves in a backlog of 50,000: 1.6 s; named by their ids: 9 ms).
    """
    return f"{{{','.join([id.hex for id in ids])}}}"


NULL = r"\N"
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
FORMS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: NULL,
    UUID: attrgetter("hex"),
    bytes: lambda value: rf"\\x{value.hex()}",
    datetime: datetime.isoformat,
    int: str,
}


def copy_lines(rows: Iterable[Sequence[object]]) -> io.StringIO:
    """Write rows in COPY's text format, in which null is not the empty string.

    Looks at each value's type once: 5 µs for a row of 16 values, where asking type after type took
    14, more than Postgres itself takes for the row and its event.
    """
    lines = ["\t".join([FORMS.get(type(each), escaped)(each) for each in row]) for row in rows]
    return io.StringIO("".join([line + "\n" for line in lines]))


def escaped(text: str) -> str:
    """Write a text so that COPY reads it as it was."""
    return text if text.isprintable() and "\\" not in text else text.translate(ESCAPES)
